#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define FREQROB_ISA baseline
#define FREQROB_LANES 4
#include "kernel_table.h"
