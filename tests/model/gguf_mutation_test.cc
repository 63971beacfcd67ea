#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <random>
#include <string>

#include "tests/fuzz/gguf_fuzz.h"
#include "tests/support/tiny_model.h"

namespace tessera {
namespace {

constexpr size_t kHeaderBytes = 6500;  // about what stands before the tensor data of SmallModel

std::string SmallModel() {
  return MakeTinyModel({.type = DType::kQ8_0,
                        .num_layers = 1,
                        .hidden_dim = 32,
                        .num_heads = 2,
                        .num_kv_heads = 1,
                        .head_dim = 16,
                        .ffn_dim = 32,
                        .max_context = 64,
                        .vocab_size = kMinTinyVocab});
}

using Random = std::mt19937_64;

size_t SomePlace(const std::string& bytes, Random* random) {
  const bool in_header = (*random)() % 8 != 0;
  return (*random)() % std::min(bytes.size(), in_header ? kHeaderBytes : bytes.size());
}

// Values at the edges of what a length, a count or a type may be.
void PutEdgeValue(std::string* bytes, Random* random) {
  constexpr uint64_t kEdges[] = {0,
                                 1,
                                 2,
                                 9,
                                 13,
                                 0x7f,
                                 0xff,
                                 0xffff,
                                 0x10000,
                                 0x7fffffff,
                                 0xffffffff,
                                 uint64_t{1} << 32,
                                 uint64_t{1} << 61,
                                 0x7fffffffffffffff,
                                 0x8000000000000000,
                                 0xffffffffffffffe0,
                                 0xffffffffffffffff};
  const uint64_t value = kEdges[(*random)() % std::size(kEdges)];
  const size_t size = (*random)() % 2 == 0 ? 4 : 8;
  const size_t place = SomePlace(*bytes, random);
  if (place + size <= bytes->size()) std::memcpy(&(*bytes)[place], &value, size);
}

void Mutate(std::string* bytes, Random* random) {
  const size_t place = SomePlace(*bytes, random);
  const size_t length = (*random)() % 16;
  switch ((*random)() % 6) {
    case 0:
      (*bytes)[place] = static_cast<char>((*bytes)[place] ^ (1 << (*random)() % 8));
      break;
    case 1:
      (*bytes)[place] = static_cast<char>((*random)());
      break;
    case 2:
      bytes->erase(place, length);
      break;
    case 3:
      bytes->insert(place, bytes->substr(SomePlace(*bytes, random), length));
      break;
    case 4:
      bytes->resize(place + 1);
      break;
    default:
      PutEdgeValue(bytes, random);
      break;
  }
}

TEST(GgufMutationTest, NoMutationOfAModelIsMoreThanAStatus) {
  const std::string model = SmallModel();
  ASSERT_TRUE(FuzzGguf(reinterpret_cast<const uint8_t*>(model.data()), model.size()));
  int num_accepted = 0;
  constexpr int kNumMutants = 4000;
  for (int seed = 0; seed < kNumMutants; ++seed) {
    SCOPED_TRACE(seed);
    Random random(static_cast<uint64_t>(seed));
    std::string mutant = model;
    for (uint64_t i = random() % 3 + 1; i > 0; --i) Mutate(&mutant, &random);
    num_accepted += FuzzGguf(reinterpret_cast<const uint8_t*>(mutant.data()), mutant.size());
  }
  // Enough of either that both ways were walked: flips inside names and weights change no
  // structure.
  EXPECT_GT(num_accepted, kNumMutants / 50);
  EXPECT_LT(num_accepted, kNumMutants / 2);
}

}  // namespace
}  // namespace tessera
