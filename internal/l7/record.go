// SPDX-License-Identifier: Apache-2.0

package l7

import "time"

// Verdict is what became of a request.
type Verdict uint8

// Verdicts.
const (
	Forwarded Verdict = iota
	Denied            // by the rules
	Rejected          // it is not what the protocol allows, or there was no server
	Audited           // rules would have denied it
)

// Record is one request with its answer, or one of them.
type Record struct {
	Time       time.Time // when the request was read
	Connection Connection
	Ruling     Ruling
	Limit      Limit // the one that denied; else the first
	Verdict    Verdict
	Reason     string        // why it was denied or rejected, in a few words; no content of the request
	Latency    time.Duration // from the request's last byte to the answer's first; 0: no answer
	HTTP       *HTTP
	DNS        *DNS
	Kafka      *Kafka
}

// HTTP is a request and its answer.
type HTTP struct {
	Protocol string // "HTTP/1.1", "HTTP/2"
	Method   string
	Scheme   string
	Host     string
	Path     string // with query, secrets blanked out
	Code     int    // status of the answer; 0: none
	Headers  []Header
	// Mismatches are the names of fields that were not as a rule wants them,
	// in a request that was allowed all the same.
	Mismatches []string
}

// Header is one field of a message that the configuration lets be recorded.
type Header struct{ Name, Value string }

// DNS is a question and its answer.
type DNS struct {
	Name   string // lower case, with the last dot
	Type   uint16 // of the question
	Answer bool
	Code   int // of the answer
	TTL    uint32
	IPs    []string
	CNAMEs []string
}

// Kafka is a request.
type Kafka struct {
	APIKey        int16
	APIVersion    int16
	CorrelationID int32
	ClientID      string
	Topic         string
	Code          int16 // error code of the answer
}
