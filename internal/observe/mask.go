// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	flowpb "github.com/stentor-net/stentor/api/flow"
)

// mask keeps some fields of a flow. A nil mask keeps all.
type mask struct {
	fields map[protoreflect.FieldDescriptor]*mask // nil value: the whole field
}

// newMask compiles paths such as "source.pod_name".
func newMask(m *fieldmaskpb.FieldMask) (*mask, error) {
	if len(m.GetPaths()) == 0 {
		return nil, nil
	}
	root := &mask{fields: map[protoreflect.FieldDescriptor]*mask{}}
	for _, path := range m.GetPaths() {
		at, d := root, (&flowpb.Flow{}).ProtoReflect().Descriptor()
		names := strings.Split(path, ".")
		for i, name := range names {
			var f protoreflect.FieldDescriptor
			if d != nil {
				f = d.Fields().ByName(protoreflect.Name(name))
			}
			if f == nil {
				return nil, fmt.Errorf("a flow has no field %q", path)
			}
			sub, seen := at.fields[f]
			if seen && sub == nil { // all of it already
				break
			}
			if i == len(names)-1 {
				at.fields[f] = nil
				break
			}
			if f.IsList() || f.Kind() != protoreflect.MessageKind {
				return nil, fmt.Errorf("%q: %s has no fields to choose from", path, name)
			}
			if sub == nil {
				sub = &mask{fields: map[protoreflect.FieldDescriptor]*mask{}}
				at.fields[f] = sub
			}
			at, d = sub, f.Message()
		}
	}
	return root, nil
}

// apply gives a flow with the chosen fields; what it consists of is shared.
func (m *mask) apply(f *flowpb.Flow) *flowpb.Flow {
	if m == nil {
		return f
	}
	out := &flowpb.Flow{}
	m.copy(f.ProtoReflect(), out.ProtoReflect())
	return out
}

func (m *mask) copy(from, to protoreflect.Message) {
	for f, sub := range m.fields {
		switch {
		case !from.Has(f):
		case sub == nil:
			to.Set(f, from.Get(f))
		default:
			sub.copy(from.Get(f).Message(), to.Mutable(f).Message())
		}
	}
}
