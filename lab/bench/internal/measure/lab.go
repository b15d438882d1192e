// SPDX-License-Identifier: Apache-2.0

package measure

// labEnv is a lab that is up.
type labEnv struct{}

func (e *Env) closeLab() {}
