// Loops of fixed length, written out.
#pragma once
#include <utility>

#if defined(__GNUC__) || defined(__clang__)
#define KG_INLINE inline __attribute__((always_inline))
#else
#define KG_INLINE inline
#endif

namespace kg {

template <typename F, int... I> KG_INLINE void each(F f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}

// Calls f(0) ... f(N - 1), with indices that are constants of the program: an array of sums then lies in registers.
// GCC unrolls nested loops too late for that, and stores each sum at each step.
template <int N, typename F> KG_INLINE void unrolled(F f) { each(f, std::make_integer_sequence<int, N>{}); }

} // namespace kg
