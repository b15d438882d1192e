// SPDX-License-Identifier: Apache-2.0

// Package dns serves DNS under rules: it reads questions, asks the rules about
// their names, passes messages on unchanged, and learns the addresses of answers
// before the client has them.
//
// Of a message it reads no more than it must (RFC 1035, 6891). What it does not
// understand it refuses, or drops and counts.
package dns
