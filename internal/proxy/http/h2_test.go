// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/stentor-net/stentor/internal/l7"
)

func onlyHTTP2() *nethttp.Protocols {
	p := new(nethttp.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

func h2Server(t *testing.T, h nethttp.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = onlyHTTP2()
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func h2Client(t *testing.T) *nethttp.Client {
	tr := &nethttp.Transport{Protocols: onlyHTTP2(), DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &nethttp.Client{Transport: tr, Timeout: 20 * time.Second}
}

func TestHTTP2IsJudgedByStream(t *testing.T) {
	p := through(t, h2Server(t, echo), rule(`{"path":"/ok.*"}`))
	c := h2Client(t)
	for i := range 20 {
		if code, body := do(t, c, "POST", fmt.Sprintf("http://%s/ok%d?q=1", p.addr, i), strings.NewReader("hello")); code != 200 || body != fmt.Sprintf("POST /ok%d?q=1 hello", i) {
			t.Errorf("allowed: %d %q", code, body)
		}
		if code, body := do(t, c, "POST", "http://"+p.addr+"/no", strings.NewReader("torpedo")); code != 403 || body != denied {
			t.Errorf("denied: %d %q", code, body)
		}
	}
	for i, r := range p.records.await(t, 40) {
		if r.HTTP.Protocol != "HTTP/2" || r.HTTP.Method != "POST" || r.HTTP.Host != p.addr {
			t.Errorf("%+v", r.HTTP)
		}
		if want := []int{200, 403}[i%2]; r.HTTP.Code != want {
			t.Errorf("record %d: code %d", i, r.HTTP.Code)
		}
	}
}

func TestBodiesOfDeniedStreamsLeaveTheWindowAsItWas(t *testing.T) {
	p := through(t, h2Server(t, echo), rule(`{"path":"/ok"}`))
	c := p.dial(t)
	c.send(preface)
	f := http2.NewFramer(c.TCPConn, c.Reader)
	f.WriteSettings()
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	const size, streams = 16000, 6
	for i := range uint32(streams) {
		block.Reset()
		for _, x := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/no"}, {":authority", "a"}} {
			e.WriteField(hpack.HeaderField{Name: x[0], Value: x[1]})
		}
		id := 2*i + 1
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true})
		f.WriteData(id, false, make([]byte, size))
		f.WriteDataPadded(id, true, make([]byte, size-100), make([]byte, 99))
	}
	returned, denials := 0, 0
	server := 1<<20 - 65535 // what its window begins with is more than the protocol's
	for returned < streams*2*size || denials < streams {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("%d bytes of the window came back, %d denials: %v", returned, denials, err)
		}
		switch frame := frame.(type) {
		case *http2.WindowUpdateFrame:
			if frame.StreamID == 0 && int(frame.Increment) != server {
				returned += int(frame.Increment)
			}
		case *http2.HeadersFrame:
			denials++
		case *http2.GoAwayFrame:
			t.Fatalf("goaway: %v", frame.ErrCode)
		}
	}
	if returned != streams*2*size {
		t.Errorf("%d bytes of the window came back, expected %d", returned, streams*2*size)
	}
}

func TestALargeBodyThatIsDeniedLeavesTheConnectionUsable(t *testing.T) {
	p := through(t, h2Server(t, echo), rule(`{"path":"/ok"}`))
	c := h2Client(t)
	big := bytes.Repeat([]byte("x"), 300<<10)
	for range 10 {
		if code, _ := do(t, c, "POST", "http://"+p.addr+"/no", bytes.NewReader(big)); code != 403 {
			t.Errorf("denied: %d", code)
		}
	}
	if code, body := do(t, c, "POST", "http://"+p.addr+"/ok", bytes.NewReader(big)); code != 200 || len(body) != len(big)+len("POST /ok ") {
		t.Errorf("allowed: %d, %d bytes", code, len(body))
	}
}

func TestManyStreamsAtOncePassOverOneConnection(t *testing.T) {
	p := through(t, h2Server(t, echo), rule(`{"path":"/ok.*"}`))
	c := h2Client(t)
	body := bytes.Repeat([]byte("y"), 100<<10)
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			path, want := "/ok", 200
			if i%3 == 0 {
				path, want = "/no", 403
			}
			res, err := c.Post("http://"+p.addr+path, "text/plain", bytes.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if text, err := io.ReadAll(res.Body); err != nil || res.StatusCode != want || want == 200 && !bytes.HasSuffix(text, body) {
				t.Errorf("%d, %d bytes, %v", res.StatusCode, len(text), err)
			}
		})
	}
	all.Wait()
}

func TestTrailersPassBothWaysOverHTTP2(t *testing.T) {
	p := through(t, h2Server(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "After")
		io.WriteString(w, "body")
		w.Header().Set("After", r.Trailer.Get("Before"))
	}), rule(`{"path":"/ok"}`))
	req, _ := nethttp.NewRequest("POST", "http://"+p.addr+"/ok", io.MultiReader(strings.NewReader("x")))
	req.Trailer = nethttp.Header{"Before": {"1"}}
	res, err := h2Client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
	if res.Trailer.Get("After") != "1" {
		t.Errorf("trailer %v", res.Trailer)
	}
}

func TestFieldsAreEditedOverHTTP2(t *testing.T) {
	server := h2Server(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		fmt.Fprintf(w, "%q %q %s", r.Header["X-Key"], r.Header["X-Out"], r.RequestURI)
	})
	p := through(t, server, rule(`{"path":"/a","headerMatches":[{"name":"X-Key","value":"right","mismatch":"REPLACE"},{"name":"X-Out","value":"none","mismatch":"DELETE"}]}`))
	req, _ := nethttp.NewRequest("GET", "http://"+p.addr+"/x/%2e%2e/a", nil)
	req.Header.Set("X-Key", "wrong")
	req.Header.Set("X-Out", "there")
	res, err := h2Client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, _ := io.ReadAll(res.Body); string(text) != `["right"] [] /a` {
		t.Errorf("%d %s", res.StatusCode, text)
	}
	if m := p.records.await(t, 1)[0].HTTP.Mismatches; len(m) != 2 {
		t.Errorf("mismatches %v", m)
	}
}

// words is a service with a call of every kind.
var words = grpc.ServiceDesc{
	ServiceName: "test.Words",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		{MethodName: "Echo", Handler: echoWord},
		{MethodName: "Secret", Handler: echoWord},
	},
	Streams: []grpc.StreamDesc{
		{StreamName: "Chat", ServerStreams: true, ClientStreams: true, Handler: chat},
		{StreamName: "Hidden", ServerStreams: true, ClientStreams: true, Handler: chat},
	},
}

func echoWord(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	in := new(wrapperspb.StringValue)
	if err := dec(in); err != nil {
		return nil, err
	}
	grpc.SetTrailer(ctx, metadata.Pairs("after", in.Value))
	if in.Value == "fail" {
		return nil, status.Error(codes.NotFound, "no such word")
	}
	return in, nil
}

func chat(_ any, s grpc.ServerStream) error {
	for {
		in := new(wrapperspb.StringValue)
		if err := s.RecvMsg(in); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := s.SendMsg(in); err != nil {
			return err
		}
	}
}

func TestGRPCCallsPassAndDeniedOnesGetPermissionDenied(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	s.RegisterService(&words, nil)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	p := through(t, l.Addr().String(), rule(`{"method":"POST","path":"/test.Words/(Echo|Chat)"}`))
	c, err := grpc.NewClient(p.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for range 5 {
		var out wrapperspb.StringValue
		var trailer metadata.MD
		if err := c.Invoke(ctx, "/test.Words/Echo", wrapperspb.String("hi"), &out, grpc.Trailer(&trailer)); err != nil || out.Value != "hi" || len(trailer["after"]) != 1 {
			t.Errorf("Echo: %v %q %v", err, out.Value, trailer)
		}
		if err := c.Invoke(ctx, "/test.Words/Echo", wrapperspb.String("fail"), &out); status.Code(err) != codes.NotFound {
			t.Errorf("an error of the server: %v", err)
		}
		if err := c.Invoke(ctx, "/test.Words/Secret", wrapperspb.String("hi"), &out); status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != "Access denied" {
			t.Errorf("denied: %v", err)
		}
		chats(t, ctx, c)
	}
	var codes []int
	for _, r := range p.records.await(t, 25) {
		codes = append(codes, r.HTTP.Code)
		if (r.Verdict == l7.Denied) != (r.HTTP.Code == 403) {
			t.Errorf("%+v", r)
		}
	}
	if len(codes) != 25 {
		t.Errorf("codes %v", codes)
	}
}

func chats(t *testing.T, ctx context.Context, c *grpc.ClientConn) {
	t.Helper()
	stream, err := c.NewStream(ctx, &words.Streams[0], "/test.Words/Chat")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		in, out := wrapperspb.String(strings.Repeat("z", i*500)), new(wrapperspb.StringValue)
		if err := stream.SendMsg(in); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(out); err != nil || out.Value != in.Value {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	stream.CloseSend()
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); err != io.EOF {
		t.Errorf("end: %v", err)
	}
	hidden, err := c.NewStream(ctx, &words.Streams[1], "/test.Words/Hidden")
	if err != nil {
		t.Fatal(err)
	}
	if err := hidden.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a denied stream: %v", err)
	}
}
