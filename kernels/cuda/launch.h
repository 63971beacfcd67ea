#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>

#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// The name of a kernel with its template arguments, for messages.
template <auto Kernel>
std::string_view KernelName() {
  constexpr std::string_view kMark = "Kernel = ";
  std::string_view name = __PRETTY_FUNCTION__;
  name.remove_prefix(name.find(kMark) + kMark.size());
  return name.substr(0, name.find_first_of(";]"));
}

#ifndef TESSERA_SIMT
// Lets the kernel use as much dynamic shared memory as the device has. Idempotent.
void AllowLargeShared(const void* kernel, std::string_view name);

void LaunchErased(const void* kernel, std::string_view name, const Stream& stream, dim3 grid,
                  dim3 block, size_t shared_bytes, void** arguments);
#endif

template <auto Kernel, typename... Parameters>
void LaunchAs(void (*kernel)(Parameters...), const Stream& stream, dim3 grid, dim3 block,
              size_t shared_bytes, std::type_identity_t<Parameters>... arguments) {
#ifdef TESSERA_SIMT
  simt::Device::Get().Launch(stream.handle(), {std::string(KernelName<Kernel>()), grid, block,
                                               shared_bytes, [=] { kernel(arguments...); }});
#else
  constexpr size_t kSharedBytesWithoutAsking = size_t{48} << 10;
  const auto* erased = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > kSharedBytesWithoutAsking) {
    static const bool allowed = (AllowLargeShared(erased, KernelName<Kernel>()), true);
    static_cast<void>(allowed);
  }
  void* addresses[] = {static_cast<void*>(&arguments)..., nullptr};
  LaunchErased(erased, KernelName<Kernel>(), stream, grid, block, shared_bytes, addresses);
#endif
}

// Puts kernel<<<grid, block, shared_bytes, stream>>>(arguments...) on the stream: the one way to
// launch. The arguments are converted to the kernel's parameter types and copied.
template <auto Kernel, typename... Arguments>
void Launch(const Stream& stream, dim3 grid, dim3 block, size_t shared_bytes,
            Arguments... arguments) {
  LaunchAs<Kernel>(Kernel, stream, grid, block, shared_bytes, arguments...);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
