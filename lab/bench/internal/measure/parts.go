// SPDX-License-Identifier: Apache-2.0

package measure

// Parts in the order in which they are measured and shown. Those that a test
// measures give it as goTest; a lab comes up with the first part that asks for it.
func Parts() []Part {
	return []Part{
		{"path", "Latency between pods", measurePaths},
		{"programs", "Time of the programs under traffic", measurePrograms},
		{"testrun", "Time of the programs, the same packet again and again", goTest("./bpf/test", "-run", "^$", "-bench", ".", "-benchtime", "15x")},
		{"connect", "Translation of services at the socket", measureConnect},
		{"sizes", "Memory and sizes", measureSizes},
	}
}
