// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"log/slog"

	"k8s.io/klog/v2"
)

// LogTo sends what the client library logs to the logger, for the whole
// process. Programs call it once, before they make a client.
func LogTo(log *slog.Logger) { klog.SetSlogLogger(log.With("source", "client-go")) }
