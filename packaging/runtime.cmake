# Run by cmake --install: copies what the installed programs need of this machine, Open MPI included, and
# fills in bin/. Knows library_folder and CMAKE_INSTALL_PREFIX.
cmake_minimum_required(VERSION 3.25)
set(prefix $ENV{DESTDIR}${CMAKE_INSTALL_PREFIX})

# Open MPI as ompi_info describes it: path:pkglibdir:/usr/lib/x86_64-linux-gnu/openmpi/lib/openmpi3
find_program(OMPI_INFO ompi_info REQUIRED)
execute_process(COMMAND ${OMPI_INFO} --parsable --path all OUTPUT_VARIABLE paths COMMAND_ERROR_IS_FATAL ANY)
foreach(name prefix bindir pkglibdir pkgdatadir)
  string(REGEX MATCH "path:${name}:([^\n]*)" found "${paths}")
  set(mpi_${name} ${CMAKE_MATCH_1})
endforeach()
cmake_path(RELATIVE_PATH mpi_pkglibdir BASE_DIRECTORY ${mpi_prefix} OUTPUT_VARIABLE mpi_plugins)
cmake_path(RELATIVE_PATH mpi_pkgdatadir BASE_DIRECTORY ${mpi_prefix} OUTPUT_VARIABLE mpi_messages)

# Left out: fast networks, batch systems and MPI's files and one-sided memory, none of which is used, and
# whose libraries are many.
set(unused openib ofi psm ucx spml sshmem scoll memheap atomic slurm gridengine flux jsm romio fcoll fbtl
           sharedfp fs_ io_ monitoring treematch vprotocol crs)
list(JOIN unused "|" unused)
file(GLOB plugins ${mpi_pkglibdir}/mca_*.so)
list(FILTER plugins EXCLUDE REGEX "/mca_([a-z0-9]*_)?(${unused})[^/]*$")
file(INSTALL ${plugins} DESTINATION ${prefix}/${mpi_plugins})
file(GLOB messages ${mpi_pkgdatadir}/help-*.txt)
file(INSTALL ${messages} DESTINATION ${prefix}/${mpi_messages})
foreach(name mpirun orted)
  file(REAL_PATH ${mpi_bindir}/${name} program)
  file(INSTALL ${program} DESTINATION ${prefix}/libexec RENAME ${name} USE_SOURCE_PERMISSIONS)
  list(APPEND programs ${prefix}/libexec/${name})
endforeach()

# PMIx, through which the ranks of a job find one another.
file(GLOB pmix_found /usr/lib/*/pmix2/lib/pmix)
if(NOT pmix_found)
  message(FATAL_ERROR "no PMIx plug-ins in /usr/lib/*/pmix2/lib/pmix: Open MPI's ranks would not find one another")
endif()
list(GET pmix_found 0 pmix_folder)
cmake_path(RELATIVE_PATH pmix_folder BASE_DIRECTORY /usr OUTPUT_VARIABLE pmix_plugins)
file(GLOB pmix ${pmix_folder}/*.so)
list(FILTER pmix EXCLUDE REGEX "slurm")
file(INSTALL ${pmix} DESTINATION ${prefix}/${pmix_plugins})

# The closure of all these. libstdc++ and libgcc are on any machine, and libcuda.so.1, which goes with the
# driver, is opened by name.
file(GLOB ours ${prefix}/libexec/* ${prefix}/libexec/tests/*)
list(FILTER ours EXCLUDE REGEX "/tests$")
file(GET_RUNTIME_DEPENDENCIES
  EXECUTABLES ${ours} MODULES ${plugins} ${pmix}
  RESOLVED_DEPENDENCIES_VAR needed UNRESOLVED_DEPENDENCIES_VAR missing
  DIRECTORIES ${mpi_pkglibdir}/.. ${pmix_folder}/..
  PRE_EXCLUDE_REGEXES "^ld-linux" "^lib(c|m|dl|rt|pthread|resolv|util|stdc[+][+]|gcc_s)[.]so"
                      "^lib(cuda|cudart|cublas|cublasLt|nccl|nvrtc|nvJitLink)[.]so")
list(FILTER missing EXCLUDE REGEX "^lib(cuda|nvidia-ml)[.]so")
if(missing)
  message(FATAL_ERROR "libraries that programs need and that are not found: ${missing}")
endif()
foreach(library ${needed})
  get_filename_component(name ${library} NAME)
  file(REAL_PATH ${library} file)
  file(INSTALL ${file} DESTINATION ${prefix}/${library_folder} RENAME ${name})
endforeach()

# A RUNPATH of the distribution's would hide the programs' RPATH from what the library needs itself.
file(GLOB copied ${prefix}/${library_folder}/*.so* ${prefix}/${mpi_plugins}/*.so ${prefix}/${pmix_plugins}/*.so)
foreach(library ${copied})
  file(RPATH_REMOVE FILE ${library})
endforeach()

find_file(loader NAMES ld-linux-x86-64.so.2 PATHS /lib64 NO_DEFAULT_PATH REQUIRED)
foreach(name polystrate polystrate-env mpirun orted)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/launch.sh ${prefix}/bin/${name} @ONLY)
endforeach()
list(LENGTH needed count)
message(STATUS "Installed: ${count} shared libraries and Open MPI's parts")
