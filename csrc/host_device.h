// Function attributes of arithmetic that CPU and GPU kernels share.
#pragma once

#ifdef __CUDACC__
#define FREQROB_INLINE __host__ __device__ __forceinline__
/// Code of GPU threads; without nvcc it is ordinary code, which tests run one thread after the other.
#define FREQROB_DEVICE __device__ __forceinline__
#define FREQROB_UNROLL _Pragma("unroll")
#else
#define FREQROB_INLINE __attribute__((always_inline)) inline
#define FREQROB_DEVICE inline
#define FREQROB_UNROLL _Pragma("GCC unroll 64")
#endif
