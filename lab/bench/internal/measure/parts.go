// SPDX-License-Identifier: Apache-2.0

package measure

import "time"

// Parts in the order in which they are measured and shown. Those that a test
// measures give it as goTest; a lab comes up with the first part that asks for it.
func Parts() []Part {
	return []Part{
		{Name: "path", Title: "Latency between pods", Run: measurePaths, Apart: true},
		{Name: "throughput", Title: "Throughput between pods", Run: measureThroughput, Apart: true},
		{Name: "programs", Title: "Time of the programs under traffic", Run: measurePrograms, Apart: true},
		{Name: "testrun", Title: "Time of the programs, the same packet again and again", Run: goTest("./bpf/test", "-run", "^$", "-bench", ".", "-benchtime", "15x")},
		{Name: "connect", Title: "Translation of services at the socket", Run: measureConnect, Apart: true},
		{Name: "agent", Title: "The agent of a node, apart from Kubernetes", Run: measureAgent, Apart: true, Wide: true},
		{Name: "cni", Title: "Attaching pods in a cluster", Run: measureCNI},
		{Name: "policy", Title: "A change of policy, from the API to packets", Run: measurePolicy},
		{Name: "restart", Title: "Restart of the agent", Run: measureRestart},
		{Name: "sizes", Title: "Memory and sizes", Run: measureSizes, Apart: true},
	}
}

// ServiceParts are measured on their own: they take a quarter of an hour.
func ServiceParts() []Part {
	return []Part{
		{Name: "services", Title: "Services, from 10 to 30,000", Run: measureServices, Apart: true, Limit: 20 * time.Minute},
		{Name: "programming", Title: "Services that come at once", Run: measureProgramming, Apart: true, Wide: true, Limit: 10 * time.Minute},
	}
}
