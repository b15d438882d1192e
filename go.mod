module github.com/stentor-net/stentor

go 1.26.0

require (
	github.com/google/go-cmp v0.7.0
	github.com/hashicorp/go-immutable-radix/v2 v2.1.0
	pgregory.net/rapid v1.3.0
)

require github.com/hashicorp/golang-lru/v2 v2.0.0 // indirect
