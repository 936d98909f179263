// Every instruction set against the portable code, without Python: for processors that are only emulated.
//
//   aarch64-linux-gnu-g++ -std=c++17 -O2 -static src/*.cpp tests/native/same.cpp -Isrc -o same
//   qemu-aarch64 ./same
#include "block.h"
#include "pack.h"
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

using namespace kg;

static std::mt19937 generator(1);

static std::vector<float> normal(int64_t n) {
  std::normal_distribution<float> of;
  std::vector<float> x((size_t)n);
  for (float &v : x) v = of(generator);
  return x;
}

struct Weights {
  std::vector<uint8_t> data;
  Packed packed;
};

static Weights weights(int kind, int64_t outputs, int64_t inputs) {
  Weights w;
  const std::vector<float> x = normal(outputs * inputs);
  w.data.resize((size_t)(panels_of(outputs) * panel_bytes(kind, inputs)));
  w.packed = {w.data.data(), kind, outputs, inputs};
  pack(w.packed, FROM_FLOAT32, x.data(), nullptr, 0, w.data.data(), own_pool(1));
  return w;
}

static double difference(const std::vector<float> &a, const std::vector<float> &b) {
  double most = 0, largest = 0;
  for (size_t i = 0; i < a.size(); i++) {
    most = std::fmax(most, std::fabs((double)a[i] - b[i]));
    largest = std::fmax(largest, std::fabs((double)b[i]));
  }
  return most / largest;
}

static std::vector<float> one_product(const Packed &w, const std::vector<float> &x, int64_t rows) {
  std::vector<float> y((size_t)(rows * w.outputs));
  product(w, x.data(), rows, y.data(), own_pool(2));
  return y;
}

// Five tokens of two rows through a block of grouped heads in a ring of three.
static std::vector<float> one_block(const Weights *w, const std::vector<float> &x, const std::vector<float> &norm) {
  const int64_t B = 2, T = 5, S = 3, H = 16;
  std::vector<float> keys(B * S * 2 * H), values(B * S * 2 * H), out(x.size());
  std::vector<int32_t> index(B * S), segment(B * S, -1), stored(B), place, ones(B * T, 1);
  for (int b = 0; b < B; b++)
    for (int t = 0; t < T; t++) place.push_back(t);
  const Cache cache = {keys.data(), values.data(), index.data(), segment.data(), stored.data(), S, 0};
  const Block block = {w[0].packed, w[1].packed, w[2].packed, w[3].packed, norm.data(), norm.data(),
                       norm.data(), norm.data(), norm.data(), norm.data()};
  decoder_block(block, {4, 2, H, 3, 0.25f, 5.f, 1e4f, 1.f, 1e-6f}, {B, T, place.data(), ones.data()}, x.data(),
                cache, out.data(), own_pool(2));
  return out;
}

int main() {
  int wrong = 0;
  std::string names = kernel_names();
  for (int kind = 0; kind < KINDS; kind++) {
    const Weights w = weights(kind, 70, 131);
    const Weights block[4] = {weights(kind, 128, 48), weights(kind, 48, 64), weights(kind, 140, 48),
                              weights(kind, 48, 70)};
    const std::vector<float> x = normal(9 * 131), tokens = normal(10 * 48), norm = normal(48);
    use_kernels("portable");
    std::vector<float> awaited[10];
    for (int64_t rows = 1; rows <= 9; rows++) awaited[rows] = one_product(w.packed, x, rows);
    const std::vector<float> states = one_block(block, tokens, norm);
    for (size_t at = 0; at < names.size();) {
      const size_t comma = std::min(names.find(',', at), names.size());
      const std::string name = names.substr(at, comma - at);
      at = comma + 1;
      use_kernels(name.c_str());
      double worst = 0;
      for (int64_t rows = 1; rows <= 9; rows++)
        worst = std::fmax(worst, difference(one_product(w.packed, x, rows), awaited[rows]));
      const double whole = difference(one_block(block, tokens, norm), states);
      // Roundings of activations to int8 may fall the other way without fused multiply-add.
      const bool bad = !(worst < (kind < INT8 ? 2e-6 : 2e-3)) || !(whole < (kind < INT8 ? 1e-5 : 2e-2));
      printf("%-12s kind %d: product %.1e, block %.1e%s\n", name.c_str(), kind, worst, whole, bad ? " WRONG" : "");
      wrong += bad;
    }
  }
  return wrong;
}
