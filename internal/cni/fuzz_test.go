// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

// FuzzAnyInputGivesAnErrorWithACode runs every verb without an agent on what the
// fuzzer makes up.
func FuzzAnyInputGivesAnErrorWithACode(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"n","socket":"/none/s"}`), "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b", "eth0")
	f.Add([]byte(`{"name":"n","socket":"/none/s","prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"interface":0,"address":"10.0.0.1/32"}]}}`), ";=;", "eth0")
	f.Add([]byte(`{"socket":"/none/s","prevResult":{"cniVersion":"0.4.0","ips":[{"version":"4","interface":-7,"address":"::/1"}]},"cni.dev/valid-attachments":[{}]}`), "", "")
	f.Add([]byte("{"), "", "")
	f.Fuzz(func(t *testing.T, stdin []byte, args, ifName string) {
		cmd := &skel.CmdArgs{ContainerID: "c", Netns: "/n", IfName: ifName, Args: args, StdinData: stdin}
		p := &Plugin{}
		if conf, err := parseConfig(stdin); err == nil {
			if !strings.HasPrefix(conf.Socket, "/none/") {
				t.Skip("would leave the test's place")
			}
			_, _ = conf.previous()
		}
		for _, verb := range []func(*skel.CmdArgs) error{p.Check, p.GC, p.Status} {
			err := verb(cmd)
			var e *types.Error
			if err != nil && (!errors.As(err, &e) || e.Code == 0 || e.Msg == "") {
				t.Errorf("%#v has no code", err)
			}
		}
		_, _, _ = p.prepare(cmd)
	})
}
