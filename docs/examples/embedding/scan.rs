//! scan FOLDER BATCH SEQLEN DIM DSTATE THREADS: as scan.c, in Rust. `bindgen ssmcore.h` writes such declarations for all operations.
use std::ffi::{c_char, c_int, c_void, CStr};
use std::{env, fs, mem, ptr};

#[repr(C)]
#[derive(Clone, Copy)]
struct Array {
    data: *mut c_void,
    kind: i32,
    ndim: i32,
    shape: [i64; 6],
    strides: [i64; 6],
}

#[repr(C)]
struct Options {
    size: usize,
    num_threads: i32,
    isa: i32,
    work_per_thread: i64,
    own: [*const c_void; 5], // parallel_for, pool, allocate, release, memory
}

#[repr(C)]
struct SelectiveScanArgs {
    size: usize,
    discretization: i32,
    delta_softplus: i32,
    u: *const Array,
    delta: *const Array,
    a: *const Array,
    b: *const Array,
    c: *const Array,
    optional: [*const Array; 4], // D, z, delta_bias, initial_state
    out: *const Array,
    states: [*const Array; 2], // last_state, checkpoints
}

extern "C" {
    fn ssmcore_selective_scan(args: *const SelectiveScanArgs, options: *const Options) -> c_int;
    fn ssmcore_error() -> *const c_char;
}

/// A float32 array in C order. It borrows `values` for as long as the caller keeps them.
fn view(values: &mut [f32], sizes: &[i64]) -> Array {
    let (mut shape, mut strides, mut count) = ([0; 6], [0; 6], 1);
    for i in (0..sizes.len()).rev() {
        shape[i] = sizes[i];
        strides[i] = count;
        count *= sizes[i];
    }
    assert_eq!(values.len() as i64, count);
    Array { data: values.as_mut_ptr().cast(), kind: 0, ndim: sizes.len() as i32, shape, strides }
}

fn main() {
    let args: Vec<String> = env::args().collect();
    assert_eq!(args.len(), 7, "usage: scan FOLDER BATCH SEQLEN DIM DSTATE THREADS");
    let size = |i: usize| args[i].parse::<i64>().unwrap();
    let (batch, seqlen, dim, dstate) = (size(2), size(3), size(4), size(5));
    let read = |name: &str| -> Vec<f32> {
        let bytes = fs::read(format!("{}/{}", args[1], name)).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect()
    };
    let (mut u, mut delta, mut a, mut b, mut c) = (read("u"), read("delta"), read("A"), read("B"), read("C"));
    let mut out = vec![0f32; u.len()];
    let (sequence, matrix) = ([batch, seqlen, dim], [batch, seqlen, 1, dstate]);
    let views = [
        view(&mut u, &sequence),
        view(&mut delta, &sequence),
        view(&mut a, &[dim, dstate]),
        view(&mut b, &matrix),
        view(&mut c, &matrix),
        view(&mut out, &sequence),
    ];
    let call = SelectiveScanArgs {
        size: mem::size_of::<SelectiveScanArgs>(),
        discretization: 0,
        delta_softplus: 1,
        u: &views[0],
        delta: &views[1],
        a: &views[2],
        b: &views[3],
        c: &views[4],
        optional: [ptr::null(); 4],
        out: &views[5],
        states: [ptr::null(); 2],
    };
    let options = Options { size: mem::size_of::<Options>(), num_threads: size(6) as i32, isa: 0, work_per_thread: 0, own: [ptr::null(); 5] };
    // All views point to memory that outlives the call, of the shapes they name.
    if unsafe { ssmcore_selective_scan(&call, &options) } != 0 {
        panic!("{}", unsafe { CStr::from_ptr(ssmcore_error()) }.to_string_lossy());
    }
    let bytes: Vec<u8> = out.iter().flat_map(|x| x.to_ne_bytes()).collect();
    fs::write(format!("{}/out", args[1]), bytes).unwrap();
}
