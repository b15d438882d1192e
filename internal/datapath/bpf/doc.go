// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the compiled BPF programs; their sources are in bpf/.
package bpf

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -cflags "-O2 -mcpu=v3 -Wall -Werror" Endpoint ../../../bpf/endpoint.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -cflags "-O2 -mcpu=v3 -Wall -Werror" Overlay ../../../bpf/overlay.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -cflags "-O2 -mcpu=v3 -Wall -Werror" Net ../../../bpf/net.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -cflags "-O2 -mcpu=v3 -Wall -Werror" Sock ../../../bpf/sock.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -cflags "-O2 -mcpu=v3 -Wall -Werror" Sockets ../../../bpf/sockets.c
