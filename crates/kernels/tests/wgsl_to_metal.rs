//! Every `.wgsl` kernel as Metal and as SPIR-V, without a device: what cannot run on a Mac is found here.

use naga::back::{msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage, StorageAccess};
use wootz_kernels::device::{Ability, Access, Kernel, kernels};

/// What a kernel may ask of a device: WebGPU's portable limits.
const MAX_BUFFERS: usize = 8;
const MAX_WORKGROUP_BYTES: u32 = 32 * 1024;
const MAX_THREADS: u32 = 256;

/// Every text of every kernel, and what it asks for.
fn wgsl_kernels() -> impl Iterator<Item = (&'static Kernel, Ability, String)> {
    kernels().flat_map(|kernel| {
        let texts: Vec<_> = kernel.wgsl.iter().flat_map(|wgsl| wgsl.texts()).collect();
        texts.into_iter().map(move |(ability, text)| (kernel, ability, text))
    })
}

/// The module, validated with no more than immediates and what it asks for allowed: no 64-bit or 16-bit number.
fn parse(kernel: &Kernel, ability: Ability, source: &str) -> (Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|e| panic!("{}: {}", kernel.name, e.emit_to_string(source)));
    let info = validator(ability)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}: {}", kernel.name, e.emit_to_string(source)));
    (module, info)
}

fn validator(ability: Ability) -> Validator {
    let mut capabilities = Capabilities::IMMEDIATES;
    if ability >= Ability::Subgroups {
        capabilities |= Capabilities::SUBGROUP;
    }
    if ability >= Ability::Matrices {
        capabilities |= Capabilities::COOPERATIVE_MATRIX;
    }
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if ability >= Ability::Subgroups {
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    validator
}

#[test]
fn kernels_become_metal_and_spirv() {
    let mut count = 0;
    for (kernel, ability, source) in wgsl_kernels() {
        let name = kernel.name;
        let (module, info) = parse(kernel, ability, &source);

        let mut resources = msl::EntryPointResources {
            immediates_buffer: Some(kernel.buffers.len() as u8),
            sizes_buffer: Some(kernel.buffers.len() as u8 + 1),
            ..Default::default()
        };
        for (slot, binding) in kernel.buffers.iter().enumerate() {
            let target = msl::BindTarget {
                buffer: Some(slot as u8),
                mutable: binding.access == Access::Write,
                ..Default::default()
            };
            resources.resources.insert(naga::ResourceBinding { group: 0, binding: binding.index }, target);
        }
        let options = msl::Options {
            lang_version: match ability {
                Ability::Plain | Ability::Subgroups => (2, 1), // macOS 10.14
                Ability::Matrices => (2, 3),                   // macOS 11
            },
            fake_missing_bindings: false,
            per_entry_point_map: [(kernel.entry.to_owned(), resources)].into(),
            ..Default::default()
        };
        let pipeline = msl::PipelineOptions {
            entry_point: Some((ShaderStage::Compute, kernel.entry.to_owned())),
            ..Default::default()
        };
        let (metal, translation) = msl::write_string(&module, &info, &options, &pipeline)
            .unwrap_or_else(|e| panic!("{name} to Metal: {e}"));
        let [entry] = translation.entry_point_names.as_slice() else {
            panic!("{name}: {} entry points in Metal", translation.entry_point_names.len())
        };
        let entry = entry.as_ref().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(metal.contains(&format!("kernel void {entry}(")), "{name} is not a kernel in\n{metal}");
        for slot in 0..kernel.buffers.len() {
            assert!(
                metal.contains(&format!("[[buffer({slot})]]")),
                "{name} does not take buffer {slot}:\n{metal}"
            );
        }
        assert_eq!(
            metal.contains("metal::simd_"),
            ability == Ability::Subgroups,
            "{name}: SIMD groups\n{metal}"
        );
        assert_eq!(
            metal.contains("metal::simdgroup_"),
            ability == Ability::Matrices,
            "{name}: matrices\n{metal}"
        );

        let options = spv::Options { lang_version: (1, 3), ..Default::default() };
        let pipeline =
            spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: kernel.entry.to_owned() };
        let words = spv::write_vec(&module, &info, &options, Some(&pipeline))
            .unwrap_or_else(|e| panic!("{name} to SPIR-V: {e}"));
        assert_eq!(words[0], 0x0723_0203, "{name}: SPIR-V begins with its magic number");
        println!(
            "{name}, {}: {} lines of Metal, {} words of SPIR-V",
            ability.name(),
            metal.lines().count(),
            words.len()
        );
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn kernels_are_what_their_sources_say() {
    for (kernel, ability, source) in wgsl_kernels() {
        let name = kernel.name;
        let (module, info) = parse(kernel, ability, &source);
        let index = module
            .entry_points
            .iter()
            .position(|entry| entry.name == kernel.entry && entry.stage == ShaderStage::Compute)
            .unwrap_or_else(|| panic!("{name} is no compute entry point of its source"));
        assert_eq!(module.entry_points[index].workgroup_size, kernel.workgroup, "{name}: workgroup size");
        let threads: u32 = kernel.workgroup.iter().product();
        assert!(threads <= MAX_THREADS, "{name}: {threads} threads, Metal and WebGPU promise {MAX_THREADS}");

        let uses = info.get_entry_point(index);
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let mut buffers = Vec::new();
        let mut workgroup_bytes = 0;
        let mut scalars = 0;
        for (handle, variable) in module.global_variables.iter() {
            if uses[handle].is_empty() {
                continue; // another kernel of the same file uses it
            }
            let bytes = layouter[variable.ty].size;
            match variable.space {
                AddressSpace::Storage { access } => {
                    let written = access.contains(StorageAccess::STORE);
                    let binding = variable.binding.as_ref().map(|binding| (binding.group, binding.binding));
                    buffers.push((binding, variable.name.clone().unwrap_or_default(), written));
                }
                AddressSpace::WorkGroup => workgroup_bytes += bytes,
                AddressSpace::Immediate => scalars += bytes,
                AddressSpace::Private => {} // a thread's own
                other => panic!("{name}: {:?} is in {other:?}", variable.name),
            }
        }
        buffers.sort();
        let mut expected: Vec<_> = kernel
            .buffers
            .iter()
            .map(|b| (Some((0, b.index)), b.name.to_owned(), b.access == Access::Write))
            .collect();
        expected.sort();
        assert_eq!(
            buffers, expected,
            "{name}: the buffers that the source uses, and those that the kernel names"
        );
        assert_eq!(scalars as usize, 4 * kernel.scalars.len(), "{name}: bytes of scalars");
        assert!(buffers.len() <= MAX_BUFFERS, "{name}: {} buffers", buffers.len());
        assert!(
            workgroup_bytes <= MAX_WORKGROUP_BYTES,
            "{name}: {workgroup_bytes} bytes of workgroup memory"
        );
    }
}

/// The checks above can fail: what asks for more than it says parses, and does not pass.
#[test]
fn operations_that_are_not_asked_for_are_refused() {
    let subgroup = "@group(0) @binding(0) var<storage, read_write> x: array<f32>;\n\
                    @compute @workgroup_size(32) fn sum() { x[0] = subgroupAdd(x[0]); }";
    let matrix = "enable wgpu_cooperative_matrix;\n\
                  @group(0) @binding(0) var<storage, read_write> x: array<f32>;\n\
                  @compute @workgroup_size(32) fn twice() {\n\
                  var m: coop_mat8x8<f32, C> = coopLoad<coop_mat8x8<f32, C>>(&x[0], 8);\n\
                  coopStore(m, &x[64], 8); }";
    for (source, asks, less) in
        [(subgroup, Ability::Subgroups, Ability::Plain), (matrix, Ability::Matrices, Ability::Subgroups)]
    {
        let module = naga::front::wgsl::parse_str(source).unwrap();
        assert!(validator(less).validate(&module).is_err(), "{source}");
        assert!(validator(asks).validate(&module).is_ok(), "{source}");
    }
}
