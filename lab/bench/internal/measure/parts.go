// SPDX-License-Identifier: Apache-2.0

package measure

// Parts in the order in which they are measured and shown. Those that a test
// measures give it as goTest; a lab comes up with the first part that asks for it.
func Parts() []Part {
	return []Part{
		{"path", "Latency between pods", measurePaths, true, false},
		{"throughput", "Throughput between pods", measureThroughput, true, false},
		{"programs", "Time of the programs under traffic", measurePrograms, true, false},
		{"testrun", "Time of the programs, the same packet again and again", goTest("./bpf/test", "-run", "^$", "-bench", ".", "-benchtime", "15x"), false, false},
		{"connect", "Translation of services at the socket", measureConnect, true, false},
		{"agent", "The agent of a node, apart from Kubernetes", measureAgent, true, true},
		{"cni", "Attaching pods in a cluster", measureCNI, false, false},
		{"policy", "A change of policy, from the API to packets", measurePolicy, false, false},
		{"restart", "Restart of the agent", measureRestart, false, false},
		{"sizes", "Memory and sizes", measureSizes, true, false},
	}
}

// ServiceParts are measured on their own: they take a quarter of an hour.
func ServiceParts() []Part {
	return []Part{
		{"services", "Services, from 10 to 30,000", measureServices, true},
		{"programming", "Services that come at once", measureProgramming, true},
	}
}
