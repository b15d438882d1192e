// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// Main carries out the call that the environment and standard input describe,
// prints its result and returns the exit code.
func Main(about string) (code int) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", r, debug.Stack())
			code = fail(types.NewError(types.ErrInternal, "defect in the plugin", fmt.Sprint(r)))
		}
	}()
	p := &Plugin{}
	funcs := skel.CNIFuncs{Add: p.Add, Del: p.Del, Check: p.Check, GC: p.GC, Status: p.Status}
	versions := version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
	if err := skel.PluginMainFuncsWithError(funcs, versions, about); err != nil {
		return fail(err)
	}
	if p.printed != nil {
		if err := p.printed.Print(); err != nil {
			return fail(types.NewError(types.ErrIOFailure, "print the result", err.Error()))
		}
	}
	return 0
}

func fail(err *types.Error) int {
	if perr := err.Print(); perr != nil {
		fmt.Fprintln(os.Stderr, err, perr)
	}
	return 1
}
