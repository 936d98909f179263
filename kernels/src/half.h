// float16 and bfloat16 in plain C++, for packing and for processors without conversions.
#pragma once
#include <cstdint>
#include <cstring>

namespace kg {

static inline float bits_to_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

static inline uint32_t float_to_bits(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}

static inline float bfloat16_to_float(uint16_t b) { return bits_to_float((uint32_t)b << 16); }

// To the nearest, ties to even; a NaN stays one.
static inline uint16_t float_to_bfloat16(float f) {
  uint32_t bits = float_to_bits(f);
  if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)((bits >> 16) | 0x40);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Exact: the exponent is moved by a product with 2^112, which also makes subnormal numbers right.
static inline float float16_to_float(uint16_t h) {
  uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
  float f = bits_to_float(bits) * bits_to_float(0x77800000);
  if ((h & 0x7c00) == 0x7c00) f = bits_to_float(bits | 0x7f800000);
  return bits_to_float(float_to_bits(f) | (uint32_t)(h & 0x8000) << 16);
}

// To the nearest, ties to even, for finite numbers up to 65504 (scales); above it, infinity.
static inline uint16_t float_to_float16(float f) {
  uint32_t bits = float_to_bits(f), sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (bits >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  if (bits < 0x38800000) { // subnormal: the addition rounds at 2^-24
    float sum = bits_to_float(bits) + 0.5f;
    return (uint16_t)(sign | (float_to_bits(sum) - 0x3f000000));
  }
  return (uint16_t)(sign | ((bits - 0x38000000 + 0xfff + ((bits >> 13) & 1)) >> 13));
}

} // namespace kg
