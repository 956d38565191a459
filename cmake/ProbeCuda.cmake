# Which nvcc, whether it works, and for which architectures to compile: all found out WITHOUT
# enable_language(CUDA), which aborts the whole configure when nvcc is there but broken (half an
# installation, no host compiler that it accepts). Also runs in script mode, for the tests.

# Sets in the caller's scope
#   UNSTUCK_NVCC_WHY          empty when nvcc works, else the reason in one line
#   CMAKE_CUDA_COMPILER       when it had to be searched for
#   CMAKE_CUDA_ARCHITECTURES  unless it was given; not cached, so it is chosen anew at each configure
function(unstuck_probe_cuda)
  set(nvcc "")
  set(arguments "")
  set(why "")
  unstuck_find_nvcc()
  if(nvcc)
    unstuck_try_nvcc()
  endif()
  # One line that can stand in a string of Python.
  string(REGEX REPLACE "[ \t\r\n]+" " " why "${why}")
  string(REPLACE "\"" "'" why "${why}")
  string(REPLACE "\\" "/" why "${why}")
  set(UNSTUCK_NVCC_WHY "${why}" PARENT_SCOPE)
  if(NOT nvcc OR why)
    return()
  endif()

  if(NOT named)
    set(CMAKE_CUDA_COMPILER "${nvcc}" PARENT_SCOPE)
  endif()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    unstuck_choose_architectures()
    set(CMAKE_CUDA_ARCHITECTURES "${architectures}" PARENT_SCOPE)
  endif()
endfunction()

# Sets nvcc, its arguments, and why there is none. A compiler that was named (`named`) is never
# replaced by another one; CMake itself reads CUDACXX the same way.
macro(unstuck_find_nvcc)
  if(CMAKE_CUDA_COMPILER)
    set(named "${CMAKE_CUDA_COMPILER}")
    find_program(nvcc_path NAMES "${named}" NO_CACHE)
  elseif(NOT "$ENV{CUDACXX}" STREQUAL "")
    set(named "$ENV{CUDACXX}")
    get_filename_component(nvcc_path "${named}" PROGRAM PROGRAM_ARGS arguments)
    separate_arguments(arguments UNIX_COMMAND "${arguments}")
  else()
    set(named "")
    find_program(nvcc_path nvcc
      HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin NO_CACHE)
  endif()
  if(nvcc_path)
    set(nvcc "${nvcc_path}")
  elseif(named)
    set(why "the CUDA compiler that was named, '${named}', does not exist")
  else()
    set(why "no nvcc on PATH, in CUDA_HOME or CUDA_PATH, or in /usr/local/cuda")
  endif()
endmacro()

# Compiles and links one real kernel with the C++ standard library, as our module does. Sets why.
macro(unstuck_try_nvcc)
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/probe_cuda")
  file(MAKE_DIRECTORY "${folder}")
  file(WRITE "${folder}/probe.cu"
    "#include <cuda_runtime.h>\n#include <vector>\n"
    "#if __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ < 1108\n"
    "#error unstuck needs CUDA 11.8 or newer\n#endif\n"
    "__global__ void kernel(float* p) { *p = 1; }\n"
    "int run(float* p) {\n  std::vector<int> v(1);\n  kernel<<<1, 1>>>(p);\n"
    "  return v[0] + cudaGetLastError();\n}\n")
  set(host "")
  if(CMAKE_CUDA_HOST_COMPILER)
    set(host -ccbin "${CMAKE_CUDA_HOST_COMPILER}")
  elseif(NOT "$ENV{CUDAHOSTCXX}" STREQUAL "")
    set(host -ccbin "$ENV{CUDAHOSTCXX}")
  endif()
  execute_process(
    COMMAND "${nvcc}" ${arguments} ${host} -std=c++17 -shared --cudart=static -Xcompiler -fPIC
      probe.cu -o probe.so
    WORKING_DIRECTORY "${folder}" TIMEOUT 300
    RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    string(SUBSTRING "${output}" 0 600 output)
    set(why "${nvcc} cannot compile a small kernel: ${output} (exit status: ${result})")
  endif()
endmacro()

# CUDAARCHS, else the GPUs that are here (a fast build), else one image for each major architecture
# of this nvcc and PTX of the newest. CMake's own default is one old architecture. Sets architectures.
macro(unstuck_choose_architectures)
  set(architectures all-major)
  if(NOT "$ENV{CUDAARCHS}" STREQUAL "")
    set(architectures "$ENV{CUDAARCHS}")
  else()
    execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
      RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_QUIET)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]+" present "${output}")
    if(result EQUAL 0 AND present)
      execute_process(COMMAND "${nvcc}" ${arguments} --list-gpu-arch
        OUTPUT_VARIABLE known ERROR_QUIET)
      string(REGEX MATCHALL "[0-9]+" known "${known}")
      list(REMOVE_DUPLICATES present)
      list(TRANSFORM present REPLACE "\\." "")
      set(architectures "${present}")
      # A GPU newer than this nvcc runs the PTX.
      foreach(architecture IN LISTS present)
        if(NOT architecture IN_LIST known)
          set(architectures all-major)
        endif()
      endforeach()
    endif()
  endif()
endmacro()

# What CMAKE_CUDA_ARCHITECTURES stands for, in one line: "all-major (80-real 90)". nvcc is asked,
# since CMake's own list is as old as CMake.
function(unstuck_name_architectures result)
  set(named "${CMAKE_CUDA_ARCHITECTURES}")
  if(named STREQUAL "native")
    set(meant "${CMAKE_CUDA_ARCHITECTURES_NATIVE}")
  elseif(named MATCHES "^all")
    execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --list-gpu-arch
      OUTPUT_VARIABLE known ERROR_QUIET)
    string(REGEX MATCHALL "[0-9]+" known "${known}")
    list(SORT known COMPARE NATURAL)
    set(meant "")
    set(majors "")
    foreach(architecture IN LISTS known)
      string(REGEX REPLACE ".$" "" major "${architecture}")
      if(named STREQUAL "all" OR NOT major IN_LIST majors)
        list(APPEND meant "${architecture}-real")
        list(APPEND majors "${major}")
      endif()
    endforeach()
    string(REGEX REPLACE "-real$" "" meant "${meant}")  # the newest as PTX, too
  else()
    set(meant "")
  endif()
  if(meant)
    set(named "${named} (${meant})")
  endif()
  string(REPLACE ";" " " named "${named}")
  set(${result} "${named}" PARENT_SCOPE)
endfunction()
