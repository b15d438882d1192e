// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/stentor-net/stentor/internal/table"
)

// reflection keeps the rows of one kind of object in a table.
type reflection[T Object, R any] struct {
	kind      Kind[T]
	namespace string // "" is all
	fields    string // field selector, "" is all
	// row converts an object; false leaves it out.
	row func(T) (R, bool)
	key func(R) string
	// mine tells which rows of a table that several kinds share come from this
	// one; nil is all of them.
	mine func(R) bool
	// same tells that a new row says nothing new; nil compares deeply.
	same func(a, b R) bool
	// optional: the kind may not be defined. Then there are no objects, until
	// it is.
	optional bool
	// synced is called after the first complete list.
	synced func()
}

// Mapping says how objects of a kind become rows.
type Mapping[T Object, R any] struct {
	// Row converts an object; false leaves it out. Required.
	Row func(T) (R, bool)
	// Key is the key of a row in its table. Required.
	Key func(R) string
	// Fields is a field selector. Optional; empty is all objects.
	Fields string
}

// Reflect keeps the objects of a kind in a table until ctx ends.
func Reflect[T Object, R any](ctx context.Context, c *Client, kind Kind[T], m Mapping[T, R], w *table.Writer[R]) error {
	return reflection[T, R]{kind: kind, fields: m.Fields, row: m.Row, key: m.Key, synced: w.MarkSynced}.run(ctx, c, w)
}

// run lists and watches until ctx ends. Broken connections are retried with
// growing pauses; the rows stay meanwhile.
func (r reflection[T, R]) run(ctx context.Context, c *Client, w *table.Writer[R]) error {
	group, err := c.group(r.kind.group)
	if err != nil {
		return err
	}
	rows := &store[T, R]{reflection: r, writer: w, names: map[string]string{}, onObject: c.onObject}
	request := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		o.FieldSelector = r.fields
		list := r.kind.list()
		err := group.Get().NamespaceIfScoped(r.namespace, r.namespace != "").Resource(r.kind.path).VersionedParams(&o, c.params).Do(ctx).Into(list)
		rows.undefined(err)
		return list, err
	}
	open := func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.FieldSelector, o.Watch = r.fields, true
		w, err := group.Get().NamespaceIfScoped(r.namespace, r.namespace != "").Resource(r.kind.path).VersionedParams(&o, c.params).Watch(ctx)
		rows.undefined(err)
		return w, err
	}
	reflector := cache.NewReflectorWithOptions(
		&cache.ListWatch{ListWithContextFunc: request, WatchFuncWithContext: open},
		r.kind.fresh(),
		rows,
		cache.ReflectorOptions{
			Name:            r.kind.path,
			TypeDescription: r.kind.name,
			Backoff:         &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 8, Cap: 10 * time.Second},
		})
	reflector.RunWithContext(ctx)
	return context.Cause(ctx)
}

// store is what a cache.Reflector writes to. One goroutine uses it.
type store[T Object, R any] struct {
	reflection[T, R]
	writer *table.Writer[R]
	// names holds the key of the row of each object: an object whose key
	// changed, or that is left out now, must not leave its old row behind.
	names map[string]string
	// onObject is told of each change. Optional.
	onObject func(kind, action string)
}

func (s *store[T, R]) put(tx *table.Tx[R], object T) {
	name := key(object.GetNamespace(), object.GetName())
	row, ok := s.row(object)
	if !ok {
		s.drop(tx, name)
		return
	}
	k := s.key(row)
	if old, had := s.names[name]; had && old != k {
		tx.Delete(old)
	}
	s.names[name] = k
	switch old, had := tx.Get(k); {
	case !had:
		tx.Upsert(row)
		s.tell("create")
	case !s.equal(old, row):
		tx.Upsert(row)
		s.tell("update")
	}
}

func (s *store[T, R]) equal(a, b R) bool {
	if s.same != nil {
		return s.same(a, b)
	}
	return reflect.DeepEqual(a, b)
}

func (s *store[T, R]) drop(tx *table.Tx[R], name string) {
	if k, had := s.names[name]; had {
		tx.Delete(k)
		delete(s.names, name)
		s.tell("delete")
	}
}

func (s *store[T, R]) tell(action string) {
	if s.onObject != nil {
		s.onObject(s.kind.name, action)
	}
}

func (s *store[T, R]) Add(object any) error {
	if o, ok := object.(T); ok {
		s.writer.Update(func(tx *table.Tx[R]) { s.put(tx, o) })
	}
	return nil
}

func (s *store[T, R]) Update(object any) error { return s.Add(object) }

func (s *store[T, R]) Delete(object any) error {
	if o, ok := object.(T); ok {
		s.writer.Update(func(tx *table.Tx[R]) { s.drop(tx, key(o.GetNamespace(), o.GetName())) })
	}
	return nil
}

// undefined takes the answer that an optional kind is not defined for an empty list.
func (s *store[T, R]) undefined(err error) {
	if s.optional && apierrors.IsNotFound(err) {
		_ = s.Replace(nil, "") // it never fails
	}
}

// Replace makes the rows those of a complete list, in one commit.
func (s *store[T, R]) Replace(objects []any, _ string) error {
	s.writer.Update(func(tx *table.Tx[R]) {
		s.names = make(map[string]string, len(objects))
		keep := make(map[string]bool, len(objects))
		for _, object := range objects {
			if o, ok := object.(T); ok {
				s.put(tx, o)
				keep[s.names[key(o.GetNamespace(), o.GetName())]] = true
			}
		}
		for k, row := range s.writer.Table().Snapshot().All() {
			if !keep[k] && (s.mine == nil || s.mine(row)) {
				tx.Delete(k)
				s.tell("delete")
			}
		}
	})
	if s.synced != nil {
		s.synced()
	}
	return nil
}

func (s *store[T, R]) Resync() error { return nil }
