module github.com/stentor-net/stentor

go 1.26.0
