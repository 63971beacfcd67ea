#pragma once

#include "model/tokenizer.h"
#include "server/generation_stream.h"
#include "tessera/v1/generation.pb.h"

namespace tessera {

v1::FinishReason ToProto(FinishReason finish);

// Makes an Output of a delta: all but the prompt's logprobs.
void FillOutput(const Delta& delta, const Tokenizer& tokenizer, v1::Output* output);

void FillLogprobs(const std::vector<ScoredToken>& entries, const Tokenizer& tokenizer,
                  v1::TokenLogprobs* logprobs);

// Appends a later message of the same stream: the sum of a stream is what Generate returns.
// REQUIRES: whole->outputs(i).index() == i for every sequence.
void MergeResponse(v1::GenerateResponse&& later, v1::GenerateResponse* whole);

}  // namespace tessera
