// Tiles of the two factors of a matrix product in workgroup memory: for each of STEP steps of the sum, TILE rows of A
// and TILE columns of B in units of four, and one unit of padding that puts successive steps into different banks.

override TILE: u32 = 64;
override STEP: u32 = 16;
override TILE_STRIDE: u32 = TILE / 4u + 1u;

var<workgroup> a_tile: array<vec4<f32>, STEP * TILE_STRIDE>;
var<workgroup> b_tile: array<vec4<f32>, STEP * TILE_STRIDE>;
