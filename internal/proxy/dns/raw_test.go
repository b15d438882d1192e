// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/proxy/sock"
)

// rawLoopback answers as the proxy of a node does.
type rawLoopback struct{ *loopback }

func (rawLoopback) Answers(six bool) (int, bool, error) {
	fd, err := sock.AnswerUDP(six)
	return fd, true, err
}

func TestAnswersFromARawSocketReachTheirClients(t *testing.T) {
	if fd, err := sock.AnswerUDP(false); errors.Is(err, unix.EPERM) {
		t.Skip("needs CAP_NET_RAW and CAP_NET_ADMIN")
	} else if err == nil {
		unix.Close(fd)
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		server := serverAt(t, host, func(w miekg.ResponseWriter, q *miekg.Msg) {
			m := new(miekg.Msg).SetReply(q)
			m.Answer = rrs(q.Question[0].Name + ` 30 IN TXT "` + strings.Repeat("x", len(q.Question[0].Name)) + `"`)
			if q.Question[0].Name == "large.b." {
				for range 200 {
					m.Answer = append(m.Answer, rrs(`large.b. 30 IN TXT "`+strings.Repeat("y", 200)+`"`)...)
				}
			}
			_ = w.WriteMsg(m)
		})
		r := through(t, server, `{"matchPattern":"*.b"}`, func(r *rig) { r.Sockets = rawLoopback{r.sockets} })
		for _, name := range []string{"a.b.", "ab.b.", "abc.b.", "abcd.b.", "large.b."} { // of all lengths
			if m := r.ask("udp", question(name, miekg.TypeTXT)); m.Rcode != 0 || len(m.Answer) == 0 {
				t.Errorf("%s at %s: %v", name, host, m)
			}
		}
		p := r.port()
		for i := range 100 { // many at once
			q := question([]string{"a.b.", "refused."}[i%2], miekg.TypeTXT)
			q.Id = uint16(i)
			r.write(p, q)
		}
		for range 100 {
			if m := r.read(p); (m.Rcode == miekg.RcodeRefused) != (m.Id%2 == 1) {
				t.Fatalf("at %s: %v", host, m)
			}
		}
		if n := r.Counters.Lost.Load(); n != 0 {
			t.Errorf("%d datagrams are lost at %s", n, host)
		}
	}
}

func TestTheChecksumIsThatOfRFC768(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 10))
	for range 5000 {
		d := make([]byte, 8+rnd.IntN(70))
		for i := range d {
			d[i] = byte(rnd.Uint32())
			if rnd.IntN(3) == 0 {
				d[i] = 0xff
			}
		}
		d[6], d[7] = 0, 0
		from, to := [4]byte{byte(rnd.Uint32()), 255, 255, 1}, [4]byte{10, 0, 0, byte(rnd.Uint32())}
		binary.BigEndian.PutUint16(d[6:], checksum(d, from, to))
		pseudo := slices.Concat(from[:], to[:], []byte{0, 17, 0, byte(len(d))}, d)
		if len(pseudo)%2 == 1 {
			pseudo = append(pseudo, 0)
		}
		sum := uint32(0)
		for i := 0; i < len(pseudo); i += 2 {
			sum += uint32(pseudo[i])<<8 | uint32(pseudo[i+1])
			sum = sum&0xffff + sum>>16
		}
		if sum != 0xffff || d[6] == 0 && d[7] == 0 {
			t.Fatalf("sum %#x of %x", sum, pseudo)
		}
	}
}
