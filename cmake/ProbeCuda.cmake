# Decide whether nvcc works WITHOUT enable_language(CUDA), which aborts the whole configure when
# nvcc is there but broken (half an installation, no host compiler it accepts). Compiles and links
# one real kernel with the C++ standard library, as our module does.
function(unstuck_probe_cuda)
  set(UNSTUCK_NVCC_OK OFF PARENT_SCOPE)

  # 1. Which nvcc. A compiler that was named is never replaced by another one.
  set(named "")
  if(CMAKE_CUDA_COMPILER)
    set(named "${CMAKE_CUDA_COMPILER}")
  elseif(DEFINED ENV{CUDACXX} AND NOT "$ENV{CUDACXX}" STREQUAL "")
    set(named "$ENV{CUDACXX}")
  endif()
  if(named)
    find_program(named_path NAMES "${named}" NO_CACHE)
    if(NOT named_path)
      set(UNSTUCK_NVCC_WHY "the CUDA compiler that was named, '${named}', does not exist" PARENT_SCOPE)
      return()
    endif()
    set(nvcc "${named_path}")
  else()
    find_program(nvcc_path nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin
      PATHS /usr/local/cuda NO_CACHE)
    set(nvcc "${nvcc_path}")
  endif()
  if(NOT nvcc)
    set(UNSTUCK_NVCC_WHY
      "no nvcc on PATH, in CUDA_HOME or CUDA_PATH, or in /usr/local/cuda" PARENT_SCOPE)
    return()
  endif()

  # 2. Does it compile and link.
  set(dir ${CMAKE_CURRENT_BINARY_DIR}/probe_cuda)
  file(MAKE_DIRECTORY ${dir})
  file(WRITE ${dir}/probe.cu "#include <cuda_runtime.h>\n#include <vector>\n"
    "__global__ void k(float* p) { *p = 1; }\n"
    "int f(float* p) { std::vector<int> v(1); k<<<1, 1>>>(p); return cudaGetLastError(); }\n")
  set(host)
  if(CMAKE_CUDA_HOST_COMPILER)
    set(host -ccbin ${CMAKE_CUDA_HOST_COMPILER})
  elseif(DEFINED ENV{CUDAHOSTCXX})
    set(host -ccbin $ENV{CUDAHOSTCXX})
  endif()
  execute_process(
    COMMAND ${nvcc} ${host} -std=c++17 -shared --cudart=static -Xcompiler -fPIC probe.cu -o probe.so
    WORKING_DIRECTORY ${dir} RESULT_VARIABLE failed OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(failed)
    string(REGEX REPLACE "[\r\n]+" " | " out "${out}")
    string(REPLACE "\"" "'" out "${out}")
    string(REPLACE "\\" "/" out "${out}")
    string(SUBSTRING "${out}" 0 600 out)
    set(UNSTUCK_NVCC_WHY "${nvcc} cannot compile a trivial kernel: ${failed} ${out}" PARENT_SCOPE)
    return()
  endif()

  # 3. For which architectures: the GPU that is here (fast build), else one image per major
  #    architecture of this nvcc and PTX of the newest. CMake's unset default is sm_75 alone.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT "$ENV{CUDAARCHS}" STREQUAL "")
    set(CMAKE_CUDA_ARCHITECTURES "$ENV{CUDAARCHS}" CACHE STRING "" FORCE)
  elseif(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
      RESULT_VARIABLE failed OUTPUT_VARIABLE caps ERROR_QUIET)
    if(NOT failed AND caps MATCHES "[0-9]+\\.[0-9]+")
      string(REGEX MATCHALL "[0-9]+\\.[0-9]+" caps "${caps}")
      list(REMOVE_DUPLICATES caps)
      list(TRANSFORM caps REPLACE "\\." "")
      set(CMAKE_CUDA_ARCHITECTURES "${caps}" CACHE STRING "" FORCE)
    else()
      set(CMAKE_CUDA_ARCHITECTURES all-major CACHE STRING "" FORCE)
    endif()
  endif()
  set(CMAKE_CUDA_COMPILER ${nvcc} CACHE FILEPATH "" FORCE)
  set(UNSTUCK_NVCC_OK ON PARENT_SCOPE)
endfunction()
