#pragma once

#include "client/options.h"
#include "tessera/v1/generation.pb.h"

namespace tessera {

// Streams text to stdout, or prints one JSON object. Returns the exit code.
int RunGenerate(const Options& options);

// The request that the flags describe; false with a message on stderr if the prompt cannot be read.
bool BuildGenerateRequest(const GenerateOptions& options, v1::GenerateRequest* request);

}  // namespace tessera
