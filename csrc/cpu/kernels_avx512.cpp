#include "kernels.h"

#ifdef FREQROB_WIDE_KERNELS

#include <cmath>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// From here on, not before: functions of the standard headers must stay runnable on every CPU.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")

#define FREQROB_ISA avx512
#define FREQROB_LANES 16
#include "kernel_table.h"

#endif
