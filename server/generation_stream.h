#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "model/tokenizer.h"
#include "scheduler/engine.h"

namespace tessera {

// What a protocol needs to know of a generation besides its tokens.
struct TextOptions {
  std::vector<std::string> stop_strings;  // none empty
  bool include_stop_string = false;
  int min_tokens = 0;                     // stop strings are not looked for before
};

// New text and tokens of one sequence. `text` is whole UTF-8 characters.
struct Delta {
  int index = 0;
  std::string text;
  std::vector<TokenId> token_ids;
  std::vector<std::vector<ScoredToken>> logprobs;  // one entry a token where asked for
  FinishReason finish = FinishReason::kNone;
  std::string stop_string;   // with kStopString
  TokenId stop_token = -1;   // with kStopToken
  SequenceReport report;     // valid when finish != kNone
};

}  // namespace tessera
