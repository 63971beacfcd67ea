#pragma once

#include <vector>

#include "client/json_output.h"
#include "client/load.h"
#include "client/options.h"

namespace tessera {

// Sends a load and prints throughput and latency percentiles. The exit code is 1 if any request
// failed.
int RunBench(const Options& options);

// The value at or below which `percent` of the values lie (nearest rank); 0 of none.
double Percentile(std::vector<double> values, double percent);

// The report of a run of `seconds`: output_tokens_per_second, ttft_ms{p50,p90,p99}, itl_ms, e2e_ms,
// ...
Json SummarizeLoad(const BenchOptions& options, const std::vector<LoadRequest>& load,
                   const std::vector<LoadResult>& results, double seconds);

}  // namespace tessera
