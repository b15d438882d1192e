// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// NodeEvent is what `kubectl describe node` shows below Events.
type NodeEvent struct {
	Node    string // name
	NodeUID string
	Warning bool
	Reason  string // CamelCase, one word
	Message string
	First   time.Time // when it began
	Count   int       // how often it was told so far, this time included
	From    string    // component that tells
}

// eventNamespace is where events about objects without a namespace are.
const eventNamespace = "default"

// maxEventMessage is what the API server takes.
const maxEventMessage = 1024

// TellEvent makes the event, or brings the one told before up to date: events
// with the same node, reason and beginning are one object.
func (c *Client) TellEvent(ctx context.Context, e NodeEvent) error {
	if len(e.Message) > maxEventMessage {
		e.Message = e.Message[:maxEventMessage-3] + "..."
	}
	h := fnv.New64a()
	fmt.Fprint(h, e.Reason, e.Warning, e.First.UnixNano())
	kind := corev1.EventTypeNormal
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: eventNamespace, Name: fmt.Sprintf("%s.%016x", e.Node, h.Sum64())},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: e.Node, UID: types.UID(e.NodeUID)},
		Type:           kind, Reason: e.Reason, Message: e.Message, Count: int32(e.Count),
		FirstTimestamp: metav1.NewTime(e.First), LastTimestamp: now,
		Source: corev1.EventSource{Component: e.From, Host: e.Node}, ReportingController: e.From, ReportingInstance: e.Node,
	}
	_, err := Events.Create(ctx, c, event)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	patch := map[string]any{"message": e.Message, "count": e.Count, "lastTimestamp": now}
	_, err = Events.Patch(ctx, c, eventNamespace, event.Name, "", types.MergePatchType, patch)
	return err
}

// Warn records an event about an object. The same words about the same object are
// one event, whoever tells them.
func (c *Client) Warn(ctx context.Context, about corev1.ObjectReference, source, reason, message string) error {
	return c.warn(ctx, about, source, reason, message, "")
}

// warn tells the same words again for another version of the object.
func (c *Client) warn(ctx context.Context, about corev1.ObjectReference, source, reason, message, version string) error {
	namespace := about.Namespace
	if namespace == "" {
		namespace = eventNamespace
	}
	if len(message) > maxEventMessage {
		message = message[:maxEventMessage-3] + "..."
	}
	sum := sha256.Sum256([]byte(string(about.UID) + reason + message + version))
	now := metav1.Now()
	_, err := Events.Create(ctx, c, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: about.Name + "." + hex.EncodeToString(sum[:8])},
		InvolvedObject: about,
		Reason:         reason, Message: message, Type: corev1.EventTypeWarning,
		Source: corev1.EventSource{Component: source}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
