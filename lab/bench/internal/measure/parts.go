// SPDX-License-Identifier: Apache-2.0

package measure

import "time"

// Parts in the order in which they are measured and shown. Those that a test
// measures give it as goTest; a lab comes up with the first part that asks for it.
func Parts() []Part {
	return []Part{
		{"path", "Latency between pods", measurePaths, true, false, 0},
		{"throughput", "Throughput between pods", measureThroughput, true, false, 0},
		{"programs", "Time of the programs under traffic", measurePrograms, true, false, 0},
		{"testrun", "Time of the programs, the same packet again and again", goTest("./bpf/test", "-run", "^$", "-bench", ".", "-benchtime", "15x"), false, false, 0},
		{"connect", "Translation of services at the socket", measureConnect, true, false, 0},
		{"agent", "The agent of a node, apart from Kubernetes", measureAgent, true, true, 0},
		{"cni", "Attaching pods in a cluster", measureCNI, false, false, 0},
		{"policy", "A change of policy, from the API to packets", measurePolicy, false, false, 0},
		{"restart", "Restart of the agent", measureRestart, false, false, 0},
		{"sizes", "Memory and sizes", measureSizes, true, false, 0},
	}
}

// ServiceParts are measured on their own: they take a quarter of an hour.
func ServiceParts() []Part {
	return []Part{
		{"services", "Services, from 10 to 30,000", measureServices, true, false, 20 * time.Minute},
		{"programming", "Services that come at once", measureProgramming, true, true, 10 * time.Minute},
	}
}
