#include "kernels/cuda/step_graphs.h"

#include <bit>

#include "kernels/backend.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr size_t kMaxGraphs = 64;  // of one model, in steady use, some 20

}  // namespace

int PaddedRows(int n) {
  if (n == 0) return 0;
  if (n <= kRowPadding) return static_cast<int>(std::bit_ceil(static_cast<unsigned>(n)));
  return static_cast<int>(RowsWithPadding(n));
}

void StepGraphs::Run(const Shape& shape, const Stream& stream, const std::function<void()>& calls) {
  if (graphs_.size() == kMaxGraphs && !graphs_.contains(shape)) Clear();
  const auto [found, is_new] = graphs_.try_emplace(shape);
  if (is_new) return calls();
  std::optional<Graph>& graph = found->second;
  if (!graph.has_value()) graph = Graph::Capture(stream, calls);
  graph->Launch(stream);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
