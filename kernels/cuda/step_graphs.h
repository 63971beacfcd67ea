#pragma once

#include <compare>
#include <functional>
#include <map>
#include <optional>

#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// The calls of small steps as CUDA graphs, since launching their kernels one by one takes longer
// than their work. One graph for each shape of step, of padded numbers of rows. Owned and used by
// one thread, with one stream.
class StepGraphs {
 public:
  // All that kernels' arguments and grids may differ by from step to step.
  struct Shape {
    const void* program;  // Backend::RunStep's
    int num_rows;
    int num_selected;
    bool combines;  // attention's plan has splits to merge

    auto operator<=>(const Shape&) const = default;
  };

  // Makes the calls: a shape's first time as they are, which may allocate as a capture may not,
  // from the second on by its graph.
  void Run(const Shape& shape, const Stream& stream, const std::function<void()>& calls);

  // For when memory moves that the calls were given.
  void Clear() { graphs_.clear(); }

 private:
  std::map<Shape, std::optional<Graph>> graphs_;  // empty between the first time and the second
};

// The number of rows that n are padded to: a power of two, or a multiple of 64.
int PaddedRows(int n);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
