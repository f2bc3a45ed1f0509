package main

// What vcsim does not do and the lab adds inside it: files and change ids of disks, quiescing that fails, ExportVm and
// leases that time out. Driven by JSON lines; every command is answered by {"error": ""} or what was wrong.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

type command struct {
	Op    string `json:"op"`
	Type  string `json:"type"`
	ID    string `json:"id"`
	Fail  bool   `json:"fail"`
	Disks []disk `json:"disks"`
}

// disk: Files from the top of the chain to its base.
type disk struct {
	Key      int32    `json:"key"`
	Files    []string `json:"files"`
	ChangeID string   `json:"change_id"`
}

type lease struct {
	ctx    *simulator.Context
	object *simulator.HttpNfcLease
}

type phony struct {
	ctx *simulator.Context

	m       sync.Mutex
	unquiet map[string]bool
	leases  map[string]lease
}

func newPhony(ctx *simulator.Context) *phony {
	p := &phony{ctx: ctx, unquiet: make(map[string]bool), leases: make(map[string]lease)}
	ctx.Map.Handler = p.handle
	return p
}

// serve answers commands until the input ends.
func (p *phony) serve(in io.Reader, out io.Writer) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c command
		err := json.Unmarshal(lines.Bytes(), &c)
		if err == nil {
			err = p.run(&c)
		}
		answer := map[string]string{"error": ""}
		if err != nil {
			answer["error"] = err.Error()
		}
		text, _ := json.Marshal(answer)
		fmt.Fprintln(out, string(text))
	}
}

func (p *phony) run(c *command) error {
	switch c.Op {
	case "backings":
		return p.backings(types.ManagedObjectReference{Type: c.Type, Value: c.ID}, c.Disks)
	case "quiesce":
		p.m.Lock()
		p.unquiet[c.ID] = c.Fail
		p.m.Unlock()
		return nil
	case "lease_error":
		return p.timeOut(c.ID)
	}
	return fmt.Errorf("no such command: %q", c.Op)
}

// backings states the files and the change id of disks of a machine or snapshot.
func (p *phony) backings(ref types.ManagedObjectReference, disks []disk) error {
	ctx := &simulator.Context{Context: p.ctx.Context, Session: p.ctx.Session, Map: p.ctx.Map}
	switch o := ctx.Map.Get(ref).(type) {
	case *simulator.VirtualMachine:
		ctx.WithLock(o, func() {
			ctx.Update(o, []types.PropertyChange{{Name: "config.hardware.device", Val: changed(o.Config.Hardware.Device, disks)}})
		})
	case *simulator.VirtualMachineSnapshot:
		ctx.WithLock(o, func() { o.Config.Hardware.Device = changed(o.Config.Hardware.Device, disks) })
	default:
		return fmt.Errorf("no such object: %s", ref)
	}
	return nil
}

// changed copies the list, and the disks of it that change: snapshots share theirs with the machine.
func changed(devices []types.BaseVirtualDevice, disks []disk) []types.BaseVirtualDevice {
	result := append([]types.BaseVirtualDevice(nil), devices...)
	for i, device := range result {
		old, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		backing, ok := old.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		if !ok {
			continue
		}
		for _, wanted := range disks {
			if wanted.Key != old.Key || len(wanted.Files) == 0 {
				continue
			}
			var chain *types.VirtualDiskFlatVer2BackingInfo
			for n := len(wanted.Files) - 1; n >= 0; n-- {
				one := *backing
				one.FileName, one.Parent, one.ChangeId = wanted.Files[n], chain, ""
				chain = &one
			}
			chain.ChangeId = wanted.ChangeID
			copied := *old
			copied.Backing = chain
			result[i] = &copied
		}
	}
	return result
}

func (p *phony) timeOut(id string) error {
	p.m.Lock()
	found, ok := p.leases[id]
	p.m.Unlock()
	if !ok {
		return fmt.Errorf("no such lease: %s", id)
	}
	found.ctx.WithLock(found.object, func() {
		found.ctx.Update(found.object, []types.PropertyChange{
			{Name: "state", Val: types.HttpNfcLeaseStateError},
			{Name: "error", Val: &types.LocalizedMethodFault{
				Fault: &types.Timedout{}, LocalizedMessage: "Operation timed out.",
			}},
		})
	})
	return nil
}

func (p *phony) handle(ctx *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	switch method.Name {
	case "CreateSnapshot_Task":
		request, ok := method.Body.(*types.CreateSnapshot_Task)
		p.m.Lock()
		fails := ok && request.Quiesce && p.unquiet[method.This.Value]
		p.m.Unlock()
		if fails {
			return &unquiet{self: method.This}, nil
		}
	case "ExportSnapshot":
		if o, ok := ctx.Map.Get(method.This).(*simulator.VirtualMachineSnapshot); ok {
			return &exporter{self: method.This, phony: p, snapshot: o}, nil
		}
	case "ExportVm":
		if o, ok := ctx.Map.Get(method.This).(*simulator.VirtualMachine); ok {
			return &exporter{self: method.This, phony: p, vm: o}, nil
		}
	}
	return nil, nil
}

// unquiet is a machine whose guest does not come to rest.
type unquiet struct{ self types.ManagedObjectReference }

func (u *unquiet) Reference() types.ManagedObjectReference { return u.self }

func (u *unquiet) CreateSnapshotTask(ctx *simulator.Context, _ *types.CreateSnapshot_Task) soap.HasFault {
	task := simulator.CreateTask(u, "createSnapshot", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		return nil, new(types.ApplicationQuiesceFault)
	})
	return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: task.Run(ctx)}}
}

// exporter is a snapshot, or a machine that is off, whose leases the lab can let time out.
type exporter struct {
	self     types.ManagedObjectReference
	phony    *phony
	snapshot *simulator.VirtualMachineSnapshot
	vm       *simulator.VirtualMachine
}

func (e *exporter) Reference() types.ManagedObjectReference { return e.self }

func (e *exporter) ExportSnapshot(ctx *simulator.Context, req *types.ExportSnapshot) soap.HasFault {
	answer := e.snapshot.ExportSnapshot(ctx, req)
	if body, ok := answer.(*methods.ExportSnapshotBody); ok && body.Res != nil {
		if object, ok := ctx.Session.Get(body.Res.Returnval).(*simulator.HttpNfcLease); ok {
			kept := *ctx
			e.phony.m.Lock()
			e.phony.leases[body.Res.Returnval.Value] = lease{&kept, object}
			e.phony.m.Unlock()
		}
	}
	return answer
}

func (e *exporter) ExportVm(ctx *simulator.Context, _ *types.ExportVm) soap.HasFault {
	if e.vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		return &methods.ExportVmBody{Fault_: simulator.Fault("", &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: e.vm.Runtime.PowerState,
		})}
	}
	moment := new(simulator.VirtualMachineSnapshot)
	moment.Vm, moment.Config = e.vm.Self, *e.vm.Config
	inner := &exporter{self: e.self, phony: e.phony, snapshot: moment}
	body := inner.ExportSnapshot(ctx, new(types.ExportSnapshot)).(*methods.ExportSnapshotBody)
	if body.Fault_ != nil {
		return &methods.ExportVmBody{Fault_: body.Fault_}
	}
	return &methods.ExportVmBody{Res: &types.ExportVmResponse{Returnval: body.Res.Returnval}}
}
