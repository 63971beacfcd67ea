// Speed of the default model's tokenizer, in bytes of text a second, and its load time.
//   TESSERA_MODEL=$(scripts/fetch-model | tail -n 1) build/release/bin/tokenizer_bench

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>

#include "benchmark/benchmark.h"
#include "model/gguf.h"
#include "model/tokenizer.h"
#include "model/utf8.h"

namespace tessera {
namespace {

constexpr size_t kTextBytes = 1'000'000;

std::unique_ptr<const GgufFile> OpenModel() {
  const char* path = std::getenv("TESSERA_MODEL");
  if (path == nullptr) return nullptr;
  auto file = GgufFile::Open(path);
  return file.ok() ? *std::move(file) : nullptr;
}

const Tokenizer* LoadedTokenizer() {
  static const std::unique_ptr<const Tokenizer> tokenizer =
      []() -> std::unique_ptr<const Tokenizer> {
    const std::unique_ptr<const GgufFile> file = OpenModel();
    if (file == nullptr) return nullptr;
    auto loaded = Tokenizer::Load(*file);
    return loaded.ok() ? *std::move(loaded) : nullptr;
  }();
  return tokenizer.get();
}

std::string Repeated(std::string_view unit) {
  std::string text;
  while (!unit.empty() && text.size() < kTextBytes) text += unit;
  return text;
}

std::string RepeatedFile(const std::string& path) {
  std::ostringstream contents;
  contents << std::ifstream(TESSERA_SOURCE_DIR "/" + path).rdbuf();
  return Repeated(contents.str());
}

void BM_Encode(benchmark::State& state, const std::string& text) {
  const Tokenizer* tokenizer = LoadedTokenizer();
  if (tokenizer == nullptr || text.empty()) {
    state.SkipWithError("needs TESSERA_MODEL and the source tree");
    return;
  }
  size_t num_tokens = 0;
  for (auto _ : state) {
    num_tokens = tokenizer->Encode(text, SpecialTokens::kPlainText).size();
    benchmark::DoNotOptimize(num_tokens);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
  state.counters["bytes_per_token"] =
      static_cast<double>(text.size()) / static_cast<double>(num_tokens);
}
BENCHMARK_CAPTURE(BM_Encode, prose, RepeatedFile("LICENSE"))->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Encode, code, RepeatedFile("model/bpe.cc"))->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Encode, chinese,
                  Repeated("\u4f60\u597d\uff0c\u4e16\u754c\u3002\u65e5\u672c\u8a9e"))
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Encode, one_letter, Repeated("a"))->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Encode, spaces, Repeated(" "))->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Encode, digits, Repeated("7"))->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Encode, one_long_word, Repeated("antidisestablishmentarianism"))
    ->Unit(benchmark::kMillisecond);

void BM_Load(benchmark::State& state) {
  const std::unique_ptr<const GgufFile> file = OpenModel();
  if (file == nullptr) {
    state.SkipWithError("needs TESSERA_MODEL");
    return;
  }
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::Load(*file).ok());
}
BENCHMARK(BM_Load)->Unit(benchmark::kMillisecond);

// Tokens to text, one by one, as a stream does.
void BM_Detokenize(benchmark::State& state) {
  const Tokenizer* tokenizer = LoadedTokenizer();
  if (tokenizer == nullptr) {
    state.SkipWithError("needs TESSERA_MODEL");
    return;
  }
  const auto tokens = tokenizer->Encode(RepeatedFile("LICENSE"), SpecialTokens::kPlainText);
  for (auto _ : state) {
    Utf8Stream stream;
    for (const TokenId token : tokens) {
      benchmark::DoNotOptimize(stream.Append(tokenizer->Bytes(token)));
    }
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * tokens.size()));
}
BENCHMARK(BM_Detokenize)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tessera

BENCHMARK_MAIN();
