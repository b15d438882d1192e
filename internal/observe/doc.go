// SPDX-License-Identifier: Apache-2.0

// Package observe serves the flows of a node over gRPC, in the words of the Hubble API.
//
// Records come out of a flow.Ring; filters run here, compiled once for each
// request. A client never holds up who writes: one that is too slow is told how
// many records it missed, as a LostEvent in its stream.
package observe
