#pragma once

#include <nlohmann/json.hpp>

#include "tessera/v1/control.pb.h"
#include "tessera/v1/generation.pb.h"

namespace tessera {

// Keeps insertion order, so that output reads in the order of the documentation.
using Json = nlohmann::ordered_json;

// A float as its 9 significant decimal digits, which name it uniquely.
double NineDigits(float value);

// text, token_ids, finish_reason, seed, ... of one sequence; an array `outputs` of the same for n
// > 1.
Json GenerationToJson(const v1::GenerateResponse& response);

Json ExplanationToJson(const v1::ExplainResponse& response);

}  // namespace tessera
