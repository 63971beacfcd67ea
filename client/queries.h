#pragma once

#include "client/options.h"

namespace tessera {

// The commands of one short call each. They print text, or JSON, and return the exit code.
int RunTokenize(const Options& options);
int RunDetokenize(const Options& options);
int RunInfo(const Options& options);
int RunExplain(const Options& options);
int RunAbort(const Options& options);
int RunDrain(const Options& options);

}  // namespace tessera
