// SPDX-License-Identifier: Apache-2.0

// Package http serves connections under HTTP rules: it reads each request,
// asks the rules, and passes on what they allow, byte for byte.
//
// What is judged is what is sent. Each client's connection has one of its own
// to the server, so that fields about the connection keep their meaning.
package http
