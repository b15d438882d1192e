// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	pb "github.com/stentor-net/stentor/api/flow"
)

// port tests for a number or a range such as 8000-8999.
func (c *compiler) port(e end, v string) test {
	low, high, isRange := strings.Cut(v, "-")
	if !isRange {
		high = low
	}
	first, err := strconv.ParseUint(low, 10, 16)
	last, err2 := strconv.ParseUint(high, 10, 16)
	if err != nil || err2 != nil || last < first {
		c.fail(e.name+"_port", v, "is no port: 1 to 65535, or a range such as 8000-8999")
		return nil
	}
	return func(r *Record) bool {
		p := uint64(e.port(r))
		return hasPorts(r.Protocol) && p >= first && p <= last
	}
}

func hasPorts(protocol uint8) bool {
	return protocol == protoTCP || protocol == protoUDP || protocol == protoSCTP
}

// protocols that a filter may name, with what they are.
var protocols = map[string]test{
	"tcp":    func(r *Record) bool { return r.Protocol == protoTCP },
	"udp":    func(r *Record) bool { return r.Protocol == protoUDP },
	"sctp":   func(r *Record) bool { return r.Protocol == protoSCTP },
	"icmp":   (*Record).isICMP,
	"icmpv4": func(r *Record) bool { return r.Protocol == protoICMP },
	"icmpv6": func(r *Record) bool { return r.Protocol == protoICMPv6 },
	"vrrp":   func(r *Record) bool { return r.Protocol == protoVRRP },
	"igmp":   func(r *Record) bool { return r.Protocol == protoIGMP },
	"dns":    func(r *Record) bool { return r.L7.GetDns() != nil },
	"http":   func(r *Record) bool { return r.L7.GetHttp() != nil },
	"kafka":  func(r *Record) bool { return r.L7.GetKafka() != nil },
}

func (c *compiler) packet(f *pb.FlowFilter) {
	each(c, f.GetProtocol(), func(v string) test {
		t, ok := protocols[strings.ToLower(v)]
		if !ok {
			c.fail("protocol", v, "is unknown: tcp, udp, sctp, icmp, icmpv4, icmpv6, vrrp, igmp, dns, http, kafka")
		}
		return t
	})
	each(c, f.GetIpVersion(), func(v pb.IPVersion) test {
		return func(r *Record) bool { return version(r.Source.Addr()) == v }
	})
	each(c, f.GetTcpFlags(), func(v *pb.TCPFlags) test {
		if v.GetNS() {
			c.fail("tcp_flags", "NS", "is not recorded")
		}
		want := flagBits(v)
		return func(r *Record) bool { return r.Protocol == protoTCP && r.Type != TypeL7 && r.TCPFlags&want == want }
	})
	oneOf(c, f.GetEncrypted(), func(r *Record) bool { return r.Flags&FlagEncrypted != 0 })
	each(c, f.GetIpTraceId(), func(uint64) test { return func(*Record) bool { return false } }) // no record has one
}

func version(a netip.Addr) pb.IPVersion {
	switch {
	case a.Is4():
		return pb.IPVersion_IPv4
	case a.Is6():
		return pb.IPVersion_IPv6
	}
	return pb.IPVersion_IP_NOT_USED
}

func flagBits(t *pb.TCPFlags) uint8 {
	var b uint8
	for i, set := range []bool{t.GetFIN(), t.GetSYN(), t.GetRST(), t.GetPSH(), t.GetACK(), t.GetURG(), t.GetECE(), t.GetCWR()} {
		if set {
			b |= 1 << i
		}
	}
	return b
}

func (c *compiler) verdict(f *pb.FlowFilter) {
	oneOf(c, f.GetVerdict(), func(r *Record) pb.Verdict { return r.Verdict })
	oneOf(c, f.GetTrafficDirection(), (*Record).direction)
	each(c, f.GetDropReasonDesc(), func(v pb.DropReason) test {
		return func(r *Record) bool { return r.Verdict == pb.Verdict_DROPPED && pb.DropReason(r.Reason) == v }
	})
	each(c, f.GetReply(), func(v bool) test {
		return func(r *Record) bool { is, known := r.reply(); return known && is == v }
	})
	each(c, f.GetEventType(), func(v *pb.EventTypeFilter) test {
		return func(r *Record) bool {
			t := r.eventType()
			return t.GetType() == v.GetType() && (!v.GetMatchSubType() || t.GetSubType() == v.GetSubType())
		}
	})
}

func (c *compiler) where(f *pb.FlowFilter) {
	each(c, f.GetNodeName(), func(v string) test {
		is := c.node(v)
		return func(*Record) bool { return is }
	})
	each(c, f.GetNodeLabels(), func(v string) test {
		selector, err := labels.Parse(v)
		if err != nil {
			c.fail("node_labels", v, err.Error())
			return nil
		}
		set := labels.Set{}
		for _, l := range c.scope.Labels {
			key, value, _ := strings.Cut(l, "=")
			set[key] = value
		}
		is := selector.Matches(set)
		return func(*Record) bool { return is }
	})
	each(c, f.GetUuid(), func(v string) test {
		return func(r *Record) bool { return c.scope.UUID != nil && c.scope.UUID(r) == v }
	})
	each(c, f.GetInterface(), func(v *pb.NetworkInterface) test {
		return func(r *Record) bool {
			if v.GetIndex() != 0 && v.GetIndex() != r.IfIndex {
				return false
			}
			return v.GetName() == "" || c.scope.Interface != nil && c.scope.Interface(r.IfIndex) == v.GetName()
		}
	})
}

// node tells whether this node is meant: name, cluster/name, cluster/ or a
// pattern of these with *.
func (c *compiler) node(v string) bool {
	cluster, name, ok := strings.Cut(v, "/")
	if !ok {
		cluster, name = c.scope.Cluster, v
	}
	if name == "" {
		name = "*"
	}
	own := c.scope.Node
	if _, after, ok := strings.Cut(own, "/"); ok {
		own = after
	}
	matches := func(pattern, s string) bool {
		is, err := path.Match(pattern, s)
		if err != nil {
			c.fail("node_name", v, "is no pattern")
		}
		return is
	}
	return matches(cluster, c.scope.Cluster) && matches(name, own)
}

func (c *compiler) layer7(f *pb.FlowFilter) {
	each(c, f.GetDnsQuery(), func(v string) test {
		re := c.expression("dns_query", v)
		return func(r *Record) bool { d := r.L7.GetDns(); return d != nil && re.MatchString(d.GetQuery()) }
	})
	each(c, f.GetHttpStatusCode(), func(v string) test {
		prefix, isPrefix := strings.CutSuffix(v, "+")
		if n, err := strconv.Atoi(prefix); err != nil || n < 0 || n > 999 || !isPrefix && len(prefix) != 3 {
			c.fail("http_status_code", v, "is no status: three digits, or a beginning with +, such as 4+")
		}
		return func(r *Record) bool {
			code := strconv.Itoa(int(r.L7.GetHttp().GetCode()))
			return code != "0" && (code == prefix || isPrefix && strings.HasPrefix(code, prefix))
		}
	})
	each(c, f.GetHttpMethod(), func(v string) test {
		return func(r *Record) bool { h := r.L7.GetHttp(); return h != nil && strings.EqualFold(h.GetMethod(), v) }
	})
	each(c, f.GetHttpPath(), func(v string) test {
		re := c.expression("http_path", v)
		return func(r *Record) bool { h := r.L7.GetHttp(); return h != nil && re.MatchString(pathOf(h.GetUrl())) }
	})
	each(c, f.GetHttpUrl(), func(v string) test {
		re := c.expression("http_url", v)
		return func(r *Record) bool { h := r.L7.GetHttp(); return h != nil && re.MatchString(h.GetUrl()) }
	})
	each(c, f.GetHttpHeader(), func(v *pb.HTTPHeader) test {
		return func(r *Record) bool {
			return slices.ContainsFunc(r.L7.GetHttp().GetHeaders(), func(h *pb.HTTPHeader) bool {
				return strings.EqualFold(h.GetKey(), v.GetKey()) && h.GetValue() == v.GetValue()
			})
		}
	})
	each(c, f.GetTraceId(), func(string) test { return func(*Record) bool { return false } }) // no record has one
}

// pathOf is the path of a URL, without what stands before and after it.
func pathOf(url string) string {
	if _, rest, ok := strings.Cut(url, "://"); ok {
		at := strings.IndexByte(rest, '/')
		if at < 0 {
			return "/"
		}
		url = rest[at:]
	}
	if at := strings.IndexAny(url, "?#"); at >= 0 {
		url = url[:at]
	}
	return url
}
