#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/dtype.h"

// Test data into a backend's memory and back, in its own activation type.

namespace tessera {

using Floats = std::vector<float>;

DType ActivationType(const Backend& backend);
// Half a unit in the last place of [1, 2): the largest relative error of rounding to the type.
double UnitRoundoff(DType type);
// The values that activations of these would have.
Floats RoundToActivations(const Backend& backend, Floats values);

DeviceBuffer UploadFloats(Backend* backend, const Floats& values);
DeviceBuffer UploadActivations(Backend* backend, const Floats& values);

// Memory for an op to write, full of NaN.
DeviceBuffer AllocateFloats(Backend* backend, size_t size);
DeviceBuffer AllocateActivations(Backend* backend, size_t size);

// Synchronise.
Floats DownloadFloats(Backend* backend, const DeviceBuffer& buffer);
Floats DownloadActivations(Backend* backend, const DeviceBuffer& buffer);

}  // namespace tessera
