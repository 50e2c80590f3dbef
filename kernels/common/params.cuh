#pragma once
#define OCELLI_PARAMS(T,N) static_assert(sizeof(T)==N)
