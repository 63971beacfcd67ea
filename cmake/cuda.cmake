# Finds nvcc. Where there is none, or where sanitizers or clang compile the host code, everything is
# built without it; kernels run on the CPU then (kernels/simt). Set TESSERA_CUDA to ON to insist.
set(TESSERA_CUDA "AUTO" CACHE STRING "Build for NVIDIA devices: AUTO, ON or OFF")
set(TESSERA_HAVE_CUDA OFF)

if(TESSERA_CUDA STREQUAL "AUTO" AND
   (TESSERA_SANITIZE OR NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU"))
  return()
endif()
if(NOT TESSERA_CUDA)
  return()
endif()

# Machine code alone, no PTX: every kernel is tested as it will run.
set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real CACHE STRING "sm_80 covers 8.x, sm_90 Hopper")
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(NOT TESSERA_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "TESSERA_CUDA=${TESSERA_CUDA}, but no nvcc was found")
  endif()
  return()
endif()
enable_language(CUDA)
# CUDA 13 has no nvToolsExt, but CMake 3.25 sets a property of its target all the same.
if(NOT TARGET CUDA::nvToolsExt AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
  add_library(CUDA::nvToolsExt INTERFACE IMPORTED)
endif()
find_package(CUDAToolkit REQUIRED)
set(TESSERA_HAVE_CUDA ON)

set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)  # CMake 3.25 does not know nvcc 13's

# Numerics (docs/numerics.md): fused multiply-adds and approximations by name only.
set(TESSERA_CUDA_OPTIONS
  -lineinfo -fmad=false -ftz=false -prec-div=true -prec-sqrt=true
  $<$<BOOL:${TESSERA_WERROR}>:-Werror=all-warnings> -Xptxas=-v
  -Xcompiler=-Wall,-Wextra,-Wshadow,-ffp-contract=off)
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:${TESSERA_CUDA_OPTIONS}>")

# Keeps what ptxas says of registers and spills beside each object, for tests/kernels/ptxas_gate.py.
set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CURRENT_LIST_DIR}/keep_ptxas_log.sh)
