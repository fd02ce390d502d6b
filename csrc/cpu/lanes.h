// Vectors of a size that the instruction set has. Included by each instruction set's file after its target pragma.
#pragma once

namespace freqrob::cpu::FREQROB_ISA {

constexpr int kLanes = FREQROB_LANES;

using Lanes = float __attribute__((vector_size(4 * kLanes)));
using Integers = int32_t __attribute__((vector_size(4 * kLanes)));
using Bytes = uint8_t __attribute__((vector_size(kLanes)));
using Doubles = double __attribute__((vector_size(4 * kLanes)));

/// The vector of floats or doubles, and how many it holds.
template <class T>
using Vector = std::conditional_t<std::is_same_v<T, float>, Lanes, Doubles>;
template <class T>
constexpr int kWidth = 4 * kLanes / sizeof(T);

FREQROB_INLINE Lanes load(const float* from) {
  Lanes v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

FREQROB_INLINE Lanes load(const uint8_t* from) {
#if FREQROB_LANES == 16
  return Lanes(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))));
#elif FREQROB_LANES == 8
  return Lanes(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))));
#else
  Bytes v;
  __builtin_memcpy(&v, from, sizeof v);
  return __builtin_convertvector(v, Lanes);
#endif
}

FREQROB_INLINE Doubles load(const double* from) {
  Doubles v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

FREQROB_INLINE void store(float* to, Lanes v) {
  __builtin_memcpy(to, &v, sizeof v);
}

FREQROB_INLINE void store(double* to, Doubles v) {
  __builtin_memcpy(to, &v, sizeof v);
}

/// Truncates; v is in [0, 255].
FREQROB_INLINE void store(uint8_t* to, Lanes v) {
#if FREQROB_LANES == 16
  const __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_cvttps_epi32(__m512(v)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
#elif FREQROB_LANES == 8
  const __m256i integers = _mm256_cvttps_epi32(__m256(v));
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256(integers, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
#else
  const Bytes bytes = __builtin_convertvector(__builtin_convertvector(v, Integers), Bytes);
  __builtin_memcpy(to, &bytes, sizeof bytes);
#endif
}

/// from[at[l]] in lane l.
FREQROB_INLINE Lanes look_up(const float* from, const int32_t* at) {
#if FREQROB_LANES == 16
  return Lanes(_mm512_i32gather_ps(_mm512_loadu_si512(at), from, 4));
#elif FREQROB_LANES == 8
  return Lanes(_mm256_i32gather_ps(from, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)), 4));
#else
  Lanes v;
  for (int l = 0; l < kLanes; ++l) v[l] = from[at[l]];
  return v;
#endif
}

FREQROB_INLINE Doubles look_up(const double* from, const int32_t* at) {
  Doubles v;
  for (int l = 0; l < kWidth<double>; ++l) v[l] = from[at[l]];
  return v;
}

FREQROB_INLINE float sqrt(float v) {
  return __builtin_sqrtf(v);
}

FREQROB_INLINE Lanes sqrt(Lanes v) {
#if FREQROB_LANES == 16
  return Lanes(_mm512_sqrt_ps(__m512(v)));
#elif FREQROB_LANES == 8
  return Lanes(_mm256_sqrt_ps(__m256(v)));
#else
  for (int l = 0; l < kLanes; ++l) v[l] = __builtin_sqrtf(v[l]);
  return v;
#endif
}

FREQROB_INLINE Doubles sqrt(Doubles v) {
#if FREQROB_LANES == 16
  return Doubles(_mm512_sqrt_pd(__m512d(v)));
#elif FREQROB_LANES == 8
  return Doubles(_mm256_sqrt_pd(__m256d(v)));
#else
  for (int l = 0; l < kWidth<double>; ++l) v[l] = __builtin_sqrt(v[l]);
  return v;
#endif
}

FREQROB_INLINE Doubles clip(Doubles v, double most) {
  v = v < 0.0 ? Doubles{} : v;
  return v > most ? Doubles{} + most : v;
}

/// v within [0, most]; NaN stays.
FREQROB_INLINE Lanes clip(Lanes v, float most) {
#if FREQROB_LANES == 16
  return Lanes(_mm512_min_ps(_mm512_set1_ps(most), _mm512_max_ps(_mm512_setzero_ps(), __m512(v))));
#elif FREQROB_LANES == 8
  return Lanes(_mm256_min_ps(_mm256_set1_ps(most), _mm256_max_ps(_mm256_setzero_ps(), __m256(v))));
#else
  v = v < 0.0f ? Lanes{} : v;
  return v > most ? Lanes{} + most : v;
#endif
}

/// Natural logarithm of positive normal numbers, within 2 ulp (the polynomial is Cephes logf's). It is not inlined,
/// because fused multiply-adds of inline code depend on the surrounding code: kernels would differ in the last bit.
__attribute__((noinline)) inline Lanes log(Lanes v) {
  constexpr int32_t kSqrtHalf = 0x3f3504f3;
  const Integers bits = Integers(v) - kSqrtHalf;
  const Lanes exponent = __builtin_convertvector(bits >> 23, Lanes);
  const Lanes x = Lanes((bits & 0x007fffff) + kSqrtHalf) - 1.0f;  // v = (1 + x) · 2^exponent, 1 + x in [√½, √2)
  constexpr float kPolynomial[] = {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                                   -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
  Lanes p = x * 7.0376836292e-2f;
  for (float coefficient : kPolynomial) p = p + coefficient, p = p * x;
  const Lanes correction = p * x * x - exponent * 2.12194440e-4f - 0.5f * x * x;
  return x + correction + exponent * 0.693359375f;
}

struct LanesMath {
  static FREQROB_INLINE Lanes log(Lanes v) { return FREQROB_ISA::log(v); }
  static FREQROB_INLINE Lanes sqrt(Lanes v) { return FREQROB_ISA::sqrt(v); }
};

/// Where column `column` of the even (odd = 0) or odd units of a row pair a|b comes from, in each span of columns.
template <int Unit, int Span, int Columns>
consteval int unit_source(int column, int odd) {
  const int units = Span / Unit, from = 2 * (column % Span / Unit) + odd;
  const int within = column - column % Span + from % units * Unit + column % Unit;
  return from < units ? within : Columns + within;
}

/// The named columns of a|b.
template <int... Source, class V>
FREQROB_INLINE V pick(V a, V b) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, Source...);
#else  // g++ 11
  return __builtin_shuffle(a, b, decltype(a < b){Source...});
#endif
}

template <int Unit, int Span, class V, int... Column>
FREQROB_INLINE void split(V& a, V& b, std::integer_sequence<int, Column...>) {
  constexpr int kColumns = sizeof...(Column);
  const V even = pick<unit_source<Unit, Span, kColumns>(Column, 0)...>(a, b);
  b = pick<unit_source<Unit, Span, kColumns>(Column, 1)...>(a, b);
  a = even;
}

/// One round of a transposition, on the rows whose indices differ by Step.
template <int Step, int Unit, int Span, class V>
FREQROB_INLINE void split_rows(V* rows) {
  constexpr int kRows = sizeof(V) / sizeof(rows[0][0]);
  FREQROB_UNROLL
  for (int i = 0; i < kRows; ++i) {
    if ((i & Step) == 0) split<Unit, Span>(rows[i], rows[i + Step], std::make_integer_sequence<int, kRows>());
  }
}

/// Transposes within 128 bits first and then in units of 128 bits, so that every round is one instruction per row.
FREQROB_INLINE void transpose(Lanes* rows) {
  split_rows<1, 1, 4>(rows);
  split_rows<2, 1, 4>(rows);
  if constexpr (kLanes > 4) split_rows<4, 4, kLanes>(rows);
  if constexpr (kLanes > 8) split_rows<8, 4, kLanes>(rows);
}

FREQROB_INLINE void transpose(Doubles* rows) {
  split_rows<1, 1, 2>(rows);
  if constexpr (kLanes > 4) split_rows<2, 2, kLanes / 2>(rows);
  if constexpr (kLanes > 8) split_rows<4, 2, kLanes / 2>(rows);
}

}  // namespace freqrob::cpu::FREQROB_ISA
