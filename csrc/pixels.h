// Pixels of any dtype as floats, two at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace freqrob {

enum class PixelType : int32_t { kFloat32, kBFloat16, kUInt8 };

struct BFloat16 {
  uint16_t bits;
};

template <class To, class From>
FREQROB_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

FREQROB_INLINE float to_float(float pixel) {
  return pixel;
}
FREQROB_INLINE float to_float(uint8_t pixel) {
  return pixel;
}
FREQROB_INLINE float to_float(BFloat16 pixel) {
  return bit_cast<float>(static_cast<uint32_t>(pixel.bits) << 16);
}

/// Truncates to uint8, as NumPy does, and rounds to the nearest bfloat16, ties to even. A uint8's value is in [0, 255].
template <class Pixel>
FREQROB_INLINE Pixel from_float(float value) {
  if constexpr (sizeof(Pixel) == sizeof(BFloat16)) {
    const uint32_t bits = bit_cast<uint32_t>(value), rounded = bits + 0x7fff + (bits >> 16 & 1);
    return {static_cast<uint16_t>(value == value ? rounded >> 16 : 0x7fc0)};
  } else {
    return static_cast<Pixel>(value);
  }
}

/// NaN stays NaN.
FREQROB_INLINE float clip(float value, float white) {
  return value < 0 ? 0 : value > white ? white : value;
}

/// Neighbours in a row, in one memory access: their address is a multiple of their size.
template <class Pixel>
struct alignas(2 * sizeof(Pixel)) Neighbours {
  Pixel left, right;
};

/// Calls task(Pixel{}) with the type of the pixels: only what reads and writes them exists for every type.
template <class Task>
FREQROB_DEVICE void for_pixels(PixelType type, Task task) {
  switch (type) {
    case PixelType::kFloat32:
      return task(float{});
    case PixelType::kBFloat16:
      return task(BFloat16{});
    case PixelType::kUInt8:
      return task(uint8_t{});
  }
}

}  // namespace freqrob
