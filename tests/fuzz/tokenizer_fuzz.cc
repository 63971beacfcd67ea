#include "tests/fuzz/tokenizer_fuzz.h"

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "model/bpe_tokenizer.h"
#include "tests/model/tokenizer_fixture.h"

namespace tessera {
namespace {

// Takes values off the front; zeros and empty strings once there is nothing left.
class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

  uint8_t Byte() {
    if (rest_.empty()) return 0;
    const uint8_t byte = static_cast<uint8_t>(rest_[0]);
    rest_.remove_prefix(1);
    return byte;
  }
  std::string_view Bytes(size_t size) {
    const std::string_view bytes = rest_.substr(0, size);
    rest_.remove_prefix(bytes.size());
    return bytes;
  }
  std::string_view Rest() { return Bytes(rest_.size()); }

 private:
  std::string_view rest_;
};

void AddTokens(FuzzInput* input, TestVocabulary* vocabulary) {
  const int num_tokens = input->Byte() % 12;
  for (int i = 0; i < num_tokens; ++i) {
    const uint8_t kind = input->Byte();
    const std::string_view bytes = input->Bytes(1 + kind % 6);
    const auto type = static_cast<TokenType>(kind < 253 ? 1 + kind / 51 : kind);
    // A prefix of its own keeps most of them apart from each other and from the bytes.
    const std::string text =
        std::string(1, static_cast<char>('a' + i % 3)) + "<" + std::string(bytes);
    vocabulary->AddToken(kind % 7 == 0 ? text : Spell(text), type);
  }
}

// Mostly merges that fit together, so that many inputs get as far as encoding.
void AddMerges(FuzzInput* input, TestVocabulary* vocabulary) {
  std::vector<std::string> parts = {"a", "b", "c", " ", "1", "\xC3"};
  const int num_merges = input->Byte() % 24;
  for (int i = 0; i < num_merges; ++i) {
    const std::string& left = parts[input->Byte() % parts.size()];
    const std::string& right = parts[input->Byte() % parts.size()];
    const std::string joined = left + right;
    const uint8_t kind = input->Byte();
    if (kind == 255) {
      vocabulary->AddMergeText(input->Bytes(6));
    } else if (std::find(parts.begin(), parts.end(), joined) == parts.end()) {
      vocabulary->AddMergedToken(left, right);
      parts.push_back(joined);
    } else if (kind >= 240) {
      vocabulary->AddMerge(left, right);
    }
  }
  if (input->Byte() % 2 == 0) return;
  std::vector<std::string_view>& merges = vocabulary->metadata().merges;
  std::reverse(merges.begin(), merges.end());
}

void SetIds(FuzzInput* input, TokenizerMetadata* metadata) {
  const uint8_t which = input->Byte();
  if (which & 1) metadata->bos_token = input->Byte();
  if (which & 2) metadata->eos_token = input->Byte();
  if (which & 4) metadata->eot_token = uint64_t{input->Byte()} << 56;
  if (which & 8) metadata->add_bos = true;
  if (which & 16) metadata->token_types.resize(input->Byte());
}

void CheckEncoding(const Tokenizer& tokenizer, std::string_view text, SpecialTokens special,
                   bool round_trips) {
  std::string decoded;
  for (const TokenId token : tokenizer.Encode(text, special)) {
    CHECK(token >= 0 && token < tokenizer.vocab_size()) << token;
    if (special == SpecialTokens::kPlainText) CHECK(!tokenizer.IsSpecial(token)) << token;
    decoded += tokenizer.Bytes(token);
  }
  if (round_trips) CHECK(decoded == text) << "decoded '" << decoded << "'";
}

}  // namespace

bool FuzzTokenizer(const uint8_t* data, size_t size) {
  static constexpr const char* kPretokenizers[] = {"gpt-2", "smollm", "llama-bpe", "qwen2"};
  FuzzInput input(data, size);
  TestVocabulary vocabulary;
  const uint8_t options = input.Byte();
  vocabulary.metadata().pre = kPretokenizers[options % 4];
  const bool has_all_bytes = (options & 4) != 0;
  if (has_all_bytes) vocabulary.AddAllBytes();
  AddTokens(&input, &vocabulary);
  AddMerges(&input, &vocabulary);
  const bool has_ids = (options & 8) != 0;
  if (has_ids) SetIds(&input, &vocabulary.metadata());

  // A byte's token that is called BOS or EOS is a control token and no longer spells text.
  const bool round_trips = has_all_bytes && !has_ids;
  const auto tokenizer = BpeTokenizer::Make(vocabulary.metadata());
  if (!tokenizer.ok()) return false;
  std::string text(input.Rest());
  if (options & 16) {
    for (int i = 0; i < 6 && !text.empty(); ++i) text += text.substr(0, 4096);
  }
  CheckEncoding(**tokenizer, text, SpecialTokens::kPlainText, round_trips);
  CheckEncoding(**tokenizer, text, SpecialTokens::kParse, round_trips);
  return true;
}

}  // namespace tessera

#ifdef TESSERA_LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tessera::FuzzTokenizer(data, size);
  return 0;
}
#endif
