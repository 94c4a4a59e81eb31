// scan FOLDER BATCH SEQLEN DIM DSTATE THREADS: as scan.c, in Go. cgo reads the header.
package main

// #cgo pkg-config: ssmcore
// #include <stdlib.h>
// #include <ssmcore.h>
import "C"

import (
	"fmt"
	"os"
	"strconv"
	"unsafe"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A float32 array in C order. Go's collector may not see C's pointers to Go's memory, so all of it is C's.
func array(shape ...int) *C.ssmcore_array {
	view := (*C.ssmcore_array)(C.calloc(1, C.sizeof_ssmcore_array))
	view._type, view.ndim = C.SSMCORE_FLOAT32, C.int32_t(len(shape))
	count := 1
	for i := len(shape) - 1; i >= 0; i-- {
		view.shape[i], view.strides[i] = C.int64_t(shape[i]), C.int64_t(count)
		count *= shape[i]
	}
	view.data = C.calloc(C.size_t(count), 4)
	return view
}

func bytes(view *C.ssmcore_array) []byte {
	return unsafe.Slice((*byte)(view.data), 4*view.shape[0]*view.strides[0])
}

func main() {
	if len(os.Args) != 7 {
		check(fmt.Errorf("usage: scan FOLDER BATCH SEQLEN DIM DSTATE THREADS"))
	}
	var sizes [7]int
	for i := 2; i < 7; i++ {
		size, err := strconv.Atoi(os.Args[i])
		check(err)
		sizes[i] = size
	}
	batch, seqlen, dim, dstate := sizes[2], sizes[3], sizes[4], sizes[5]
	read := func(name string, shape ...int) *C.ssmcore_array {
		view := array(shape...)
		data, err := os.ReadFile(os.Args[1] + "/" + name)
		check(err)
		if copy(bytes(view), data) != len(data) {
			check(fmt.Errorf("%s: expected %v numbers", name, shape))
		}
		return view
	}

	args := (*C.ssmcore_selective_scan_args)(C.calloc(1, C.sizeof_ssmcore_selective_scan_args))
	args.size, args.delta_softplus = C.sizeof_ssmcore_selective_scan_args, 1
	args.u, args.delta = read("u", batch, seqlen, dim), read("delta", batch, seqlen, dim)
	args.A = read("A", dim, dstate)
	args.B, args.C = read("B", batch, seqlen, 1, dstate), read("C", batch, seqlen, 1, dstate)
	args.out = array(batch, seqlen, dim)
	options := (*C.ssmcore_options)(C.calloc(1, C.sizeof_ssmcore_options))
	options.size, options.num_threads = C.sizeof_ssmcore_options, C.int32_t(sizes[6])
	if C.ssmcore_selective_scan(args, options) != C.SSMCORE_OK {
		check(fmt.Errorf("%s", C.GoString(C.ssmcore_error())))
	}
	check(os.WriteFile(os.Args[1]+"/out", bytes(args.out), 0o644))
}
