// SPDX-License-Identifier: Apache-2.0

package test

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// spyRow is the one row of the map `spy`: what the program did, and what it is told.
type spyRow struct {
	Kind    uint32 // redirect: 1 redirect, 2 to the peer, 3 by the neighbour
	Ifindex uint32
	VNI     uint32 // of the tunnel that was set
	Remote  [4]uint32
	IsSix   uint32 // the tunnel's underlay is IPv6
	// What the program is told.
	InVNI    uint32
	InRemote [4]uint32
	InSix    uint32
	InFib    uint32 // device that the route lookup finds; 0: no route
	Assigned uint32 // sockets that the packet was given to
}

const (
	spyKind, spyIfindex, spyVNI, spyRemote, spyIsSix = 0, 4, 8, 12, 28
	spyInVNI, spyInRemote, spyInSix, spyInFib        = 32, 36, 52, 56
	spyAssigned, spyBytes                            = 60, 64
)

const (
	kindRedirect = 1
	kindPeer     = 2
	kindNeighbor = 3
)

// addSpy leads the calls of helpers that act on the outside through functions
// that note their arguments in the map `spy`.
func addSpy(spec *ebpf.CollectionSpec) {
	spec.Maps["spy"] = spyMap()
	for _, p := range spec.Programs {
		if p.Type == ebpf.SchedCLS {
			spyProgram(p)
		}
	}
}

func spyMap() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "spy", Type: ebpf.Array, KeySize: 4, ValueSize: spyBytes, MaxEntries: 1}
}

func spyProgram(p *ebpf.ProgramSpec) {
	spies := map[asm.BuiltinFunc]func(string) asm.Instructions{
		asm.FnRedirect:        func(n string) asm.Instructions { return spyRedirect(n, asm.FnRedirect, kindRedirect) },
		asm.FnRedirectPeer:    func(n string) asm.Instructions { return spyRedirect(n, asm.FnRedirectPeer, kindPeer) },
		asm.FnRedirectNeigh:   func(n string) asm.Instructions { return spyRedirect(n, asm.FnRedirectNeigh, kindNeighbor) },
		asm.FnSkbSetTunnelKey: spySetTunnel,
		asm.FnSkbGetTunnelKey: spyGetTunnel,
		asm.FnFibLookup:       spyFib,
		asm.FnSkAssign:        spyAssign,
	}
	used := map[asm.BuiltinFunc]string{}
	for i, ins := range p.Instructions {
		fn := asm.BuiltinFunc(ins.Constant)
		if !ins.IsBuiltinCall() || spies[fn] == nil {
			continue
		}
		name := "spy_" + fn.String()
		used[fn] = name
		call := asm.Instruction{OpCode: ins.OpCode, Src: asm.PseudoCall, Constant: -1}
		call.Metadata = ins.Metadata
		p.Instructions[i] = call.WithReference(name)
	}
	for fn, name := range used {
		code := spies[fn](name)
		// The verifier wants a source line for every function; any will do.
		code[0] = code[0].WithSource(p.Instructions[0].Source())
		p.Instructions = append(p.Instructions, code...)
	}
}

// function begins a function that keeps its arguments in R6..R9 and has the row of `spy` in R0.
func function(name string) asm.Instructions {
	u64 := &btf.Int{Name: "unsigned long long", Size: 8}
	args := []btf.FuncParam{{Name: "a", Type: u64}, {Name: "b", Type: u64}, {Name: "c", Type: u64}, {Name: "d", Type: u64}}
	fn := &btf.Func{Name: name, Type: &btf.FuncProto{Return: u64, Params: args}, Linkage: btf.StaticFunc}
	return asm.Instructions{
		btf.WithFuncMetadata(asm.Mov.Reg(asm.R6, asm.R1).WithSymbol(name), fn),
		asm.Mov.Reg(asm.R7, asm.R2),
		asm.Mov.Reg(asm.R8, asm.R3),
		asm.Mov.Reg(asm.R9, asm.R4),
		asm.StoreImm(asm.R10, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, 0).WithReference("spy"),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, name+"_out"),
	}
}

// call ends a function with the real helper.
func call(name string, fn asm.BuiltinFunc) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6).WithSymbol(name + "_out"),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Reg(asm.R3, asm.R8),
		asm.Mov.Reg(asm.R4, asm.R9),
		fn.Call(),
		asm.Return(),
	}
}

func copyWords(toReg, fromReg asm.Register, to, from int16, n int) asm.Instructions {
	var out asm.Instructions
	for i := int16(0); i < int16(n)*4; i += 4 {
		out = append(out, asm.LoadMem(asm.R1, fromReg, from+i, asm.Word), asm.StoreMem(toReg, to+i, asm.R1, asm.Word))
	}
	return out
}

func spyRedirect(name string, fn asm.BuiltinFunc, kind int64) asm.Instructions {
	out := function(name)
	// bpf_redirect and bpf_redirect_peer have two arguments: R3 and R4 hold nothing then.
	if fn != asm.FnRedirectNeigh {
		out = append(out[:2:2], out[4:]...)
	}
	out = append(out,
		asm.StoreImm(asm.R0, spyKind, kind, asm.Word),
		asm.StoreMem(asm.R0, spyIfindex, asm.R6, asm.Word))
	end := call(name, fn)
	if fn != asm.FnRedirectNeigh {
		end = append(end[:2:2], end[4:]...)
	}
	return append(out, end...)
}

func spySetTunnel(name string) asm.Instructions {
	out := function(name)
	out = append(out, copyWords(asm.R0, asm.R7, spyVNI, 0, 5)...)
	out = append(out, asm.Mov.Reg(asm.R1, asm.R9), asm.And.Imm(asm.R1, 1), asm.StoreMem(asm.R0, spyIsSix, asm.R1, asm.Word))
	return append(out, call(name, asm.FnSkbSetTunnelKey)...)
}

// spyGetTunnel answers as the test says; the flag in R9 asks for IPv6.
func spyGetTunnel(name string) asm.Instructions {
	out := function(name)
	out = append(out,
		asm.Mov.Reg(asm.R2, asm.R9),
		asm.And.Imm(asm.R2, 1),
		asm.LoadMem(asm.R1, asm.R0, spyInSix, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, name+"_out"))
	out = append(out, copyWords(asm.R7, asm.R0, 0, spyInVNI, 5)...)
	return append(out, asm.Mov.Imm(asm.R0, 0), asm.Return(),
		asm.Mov.Imm(asm.R0, -22).WithSymbol(name+"_out"), asm.Return())
}

func spyFib(name string) asm.Instructions {
	const ifindex = 8 // in struct bpf_fib_lookup
	out := function(name)
	return append(out,
		asm.LoadMem(asm.R1, asm.R0, spyInFib, asm.Word),
		asm.JEq.Imm(asm.R1, 0, name+"_out"),
		asm.StoreMem(asm.R7, ifindex, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R0, 0), asm.Return(),
		asm.Mov.Imm(asm.R0, 4).WithSymbol(name+"_out"), asm.Return())
}

// spyAssign counts; a test run is nowhere where the kernel assigns sockets.
func spyAssign(name string) asm.Instructions {
	out := function(name)
	out = append(out[:3:3], out[4:]...) // three arguments
	return append(out,
		asm.LoadMem(asm.R1, asm.R0, spyAssigned, asm.Word),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, spyAssigned, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(name+"_out"), asm.Return())
}
