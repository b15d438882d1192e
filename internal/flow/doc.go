// SPDX-License-Identifier: Apache-2.0

// Package flow keeps what was observed, finds it again and puts it into the words of the flow API.
//
// A Record is one observation with pointers to who is behind its addresses
// (Party) and which policies decided (Cause). Parties and causes are shared by
// all records that mean the same and never change, so that an observation
// allocates nothing and still says what was true when it was made.
//
//	event -> Record -> Ring -> Filter -> pb.Flow
package flow
