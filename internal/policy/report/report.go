// SPDX-License-Identifier: Apache-2.0

// Package report is what a node tells the operator about policy: what it has in force, in a few hundred bytes.
//
// A digest stands for all objects of a kind. The operator computes the same
// from its own view, so it knows for each object whether the node has it in
// force, without a word about any of them. Only what is not well is named.
package report

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/policy"
)

// Limits of a report, so that a flood of broken objects does not become a
// flood of bytes from each node.
const (
	MaxNotes  = 32
	MaxReason = 256 // bytes
)

// Report of one node.
type Report struct {
	Revision uint64                 `json:"revision"` // of the node's policy; counts since its agent started
	Kinds    map[policy.Kind]Digest `json:"kinds"`
	Notes    []Note                 `json:"notes,omitempty"` // quarantined objects first
	More     int                    `json:"more,omitempty"`  // notes that were left out
}

// Digest stands for a set of objects in their generations.
type Digest struct {
	Count int    `json:"count"`
	Sum   uint64 `json:"sum,string"` // of a hash of each object
}

// Note names an object that is not wholly in force.
type Note struct {
	Key        string `json:"key"` // kind/namespace/name
	UID        string `json:"uid"`
	Generation int64  `json:"generation"`
	Valid      bool   `json:"valid"` // false: quarantined
	Reason     string `json:"reason"`
}

// Add counts an object in.
func (d Digest) Add(key, uid string, generation int64) Digest {
	return Digest{d.Count + 1, d.Sum + hash(key, uid, generation)}
}

func hash(key, uid string, generation int64) uint64 {
	h := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", key, uid, generation))
	return binary.BigEndian.Uint64(h[:])
}

// Of makes the report of what became of the objects.
func Of(revision uint64, list []policy.ObjectStatus) Report {
	r := Report{Revision: revision, Kinds: map[policy.Kind]Digest{}}
	for _, o := range list {
		kind := KindOf(o.Key)
		r.Kinds[kind] = r.Kinds[kind].Add(o.Key, o.UID, o.Generation)
		if !o.Valid || o.Reason != "" {
			r.Notes = append(r.Notes, Note{Key: o.Key, UID: o.UID, Generation: o.Generation, Valid: o.Valid, Reason: shorten(o.Reason)})
		}
	}
	slices.SortFunc(r.Notes, func(a, b Note) int {
		if a.Valid != b.Valid {
			return map[bool]int{true: 1, false: -1}[a.Valid]
		}
		return cmp.Compare(a.Key, b.Key)
	})
	if n := len(r.Notes); n > MaxNotes {
		r.Notes, r.More = r.Notes[:MaxNotes:MaxNotes], n-MaxNotes
	}
	return r
}

// KindOf is the first part of an object's key.
func KindOf(key string) policy.Kind {
	kind, _, _ := strings.Cut(key, "/")
	return policy.Kind(kind)
}

func shorten(s string) string {
	const tail = "..."
	if len(s) <= MaxReason {
		return s
	}
	return strings.ToValidUTF8(s[:MaxReason-len(tail)], "") + tail
}

// Encode writes a report; equal reports are equal texts.
func (r Report) Encode() string {
	text, err := json.Marshal(r)
	if err != nil {
		return "{}" // numbers and strings always encode
	}
	return string(text)
}

// Decode reads a report.
func Decode(text string) (Report, error) {
	var r Report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return r, fmt.Errorf("policy report: %w", err)
	}
	return r, nil
}
