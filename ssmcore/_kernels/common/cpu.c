/* The instruction sets of this processor, asked for here. __builtin_cpu_supports answers from the compiler's runtime library: zig's says no to
 * everything, and clang-cl links none. */
#include "cpu.h"
#if defined(__x86_64__)
#include <cpuid.h>
#include <stdatomic.h>

/* Whether all these bits are set. */
static int has(unsigned found, unsigned bits) { return (found & bits) == bits; }

static int widest(void) {
    enum { AVX_STATE = 0x06, AVX512_STATE = 0xe6 }; /* registers that the system keeps across a switch of threads */
    unsigned a, b, c, d, kept, upper;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, bit_OSXSAVE | bit_AVX | bit_FMA)) return SSMCORE_GENERIC;
    __asm__ volatile("xgetbv" : "=a"(kept), "=d"(upper) : "c"(0));
    if (!has(kept, AVX_STATE) || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has(b, bit_AVX2)) return SSMCORE_GENERIC;
    int wide = has(b, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL);
    return wide && has(kept, AVX512_STATE) ? SSMCORE_AVX512 : SSMCORE_AVX2;
}

/* Asked for once: a virtual machine takes microseconds to answer. */
int ssm_widest_isa(void) {
    static _Atomic int known = -1;
    int isa = atomic_load_explicit(&known, memory_order_relaxed);
    if (isa < 0) atomic_store_explicit(&known, isa = widest(), memory_order_relaxed);
    return isa;
}
#else
int ssm_widest_isa(void) { return SSMCORE_GENERIC; }
#endif
