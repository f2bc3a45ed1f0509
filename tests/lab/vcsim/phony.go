package main

// What vcsim does not do and the lab adds inside it: files and change ids of disks, quiescing that fails, ExportVm and
// leases that time out. Driven by JSON lines; every command is answered by {"error": "", "answer": ""}.

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
	Op      string `json:"op"`
	Type    string `json:"type"`
	ID      string `json:"id"`
	Fail    bool   `json:"fail"`
	Seconds int32  `json:"seconds"`
	Millis  int    `json:"millis"`
	Disks   []disk `json:"disks"`
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
	mo.HttpNfcLease // the registry looks for a managed object in the first field of all that it holds (FindAllByUuid)

	ctx *simulator.Context

	m       sync.Mutex
	unquiet map[string]bool
	leases  map[string]lease
	timeout int32
}

func newPhony(ctx *simulator.Context) *phony {
	p := &phony{ctx: ctx, timeout: 300, unquiet: make(map[string]bool), leases: make(map[string]lease)}
	ctx.Map.Handler = p.handle
	ctx.Map.Put(p)
	return p
}

// serve answers commands until the input ends.
func (p *phony) serve(in io.Reader, out io.Writer) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c command
		said := ""
		err := json.Unmarshal(lines.Bytes(), &c)
		if err == nil {
			said, err = p.run(&c)
		}
		answer := map[string]string{"error": "", "answer": said}
		if err != nil {
			answer["error"] = err.Error()
		}
		text, _ := json.Marshal(answer)
		fmt.Fprintln(out, string(text))
	}
}

func (p *phony) run(c *command) (string, error) {
	switch c.Op {
	case "backings":
		return "", p.backings(types.ManagedObjectReference{Type: c.Type, Value: c.ID}, c.Disks)
	case "quiesce":
		p.m.Lock()
		p.unquiet[c.ID] = c.Fail
		p.m.Unlock()
		return "", nil
	case "lease_timeout":
		p.m.Lock()
		p.timeout = c.Seconds
		p.m.Unlock()
		return "", nil
	case "task_delay":
		// without the hand-off of its lock, for a machine's properties can be read while a real vCenter works on it
		simulator.TaskDelay.MethodDelay = map[string]int{"LockHandoff": 0, c.ID: c.Millis}
		return "", nil
	case "lease_entity":
		return p.entity(c.ID)
	case "lease_error":
		return "", p.timeOut(c.ID)
	}
	return "", fmt.Errorf("no such command: %q", c.Op)
}

// entity is the machine of a lease that is ready.
func (p *phony) entity(id string) (string, error) {
	p.m.Lock()
	found, ok := p.leases[id]
	p.m.Unlock()
	if !ok || found.object.Info == nil {
		return "", fmt.Errorf("no such lease: %s", id)
	}
	return found.object.Info.Entity.Value, nil
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

// handle sends some calls to the phony object; a handler that is returned here would yield to the session's own view.
func (p *phony) handle(ctx *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	mine := false
	switch method.Name {
	case "RemoveSnapshot_Task":
		if snapshot, ok := ctx.Map.Get(method.This).(*simulator.VirtualMachineSnapshot); ok {
			keepFiles(ctx, snapshot.Vm)
		}
	case "RemoveAllSnapshots_Task":
		keepFiles(ctx, method.This)
	case "CreateSnapshot_Task":
		request, ok := method.Body.(*types.CreateSnapshot_Task)
		p.m.Lock()
		mine = ok && request.Quiesce && p.unquiet[method.This.Value]
		p.m.Unlock()
	case "ExportSnapshot":
		_, mine = ctx.Map.Get(method.This).(*simulator.VirtualMachineSnapshot)
	case "ExportVm":
		_, mine = ctx.Map.Get(method.This).(*simulator.VirtualMachine)
	case "ImportVApp":
		_, mine = ctx.Map.Get(method.This).(*simulator.ResourcePool)
	}
	if mine {
		method.This = itself
	}
	return nil, nil
}

// keepFiles has vcsim forget which files snapshots made: its keys of files shift, and it would delete a disk's instead.
func keepFiles(ctx *simulator.Context, machine types.ManagedObjectReference) {
	if vm, ok := ctx.Map.Get(machine).(*simulator.VirtualMachine); ok {
		ctx.WithLock(vm, func() { vm.LayoutEx.Snapshot = nil })
	}
}

var itself = types.ManagedObjectReference{Type: "PhonyObject", Value: "phony"}

func (p *phony) Reference() types.ManagedObjectReference { return itself }

// CreateSnapshotTask is that of a machine whose guest does not come to rest.
func (p *phony) CreateSnapshotTask(ctx *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	task := simulator.CreateTask(req.This, "createSnapshot", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		return nil, new(types.ApplicationQuiesceFault)
	})
	return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: task.Run(ctx)}}
}

func (p *phony) ExportSnapshot(ctx *simulator.Context, req *types.ExportSnapshot) soap.HasFault {
	return p.export(ctx, ctx.Map.Get(req.This).(*simulator.VirtualMachineSnapshot), req)
}

func (p *phony) export(
	ctx *simulator.Context, snapshot *simulator.VirtualMachineSnapshot, req *types.ExportSnapshot,
) (answer soap.HasFault) {
	ctx.WithLock(req.This, func() { answer = snapshot.ExportSnapshot(ctx, req) })
	if body, ok := answer.(*methods.ExportSnapshotBody); ok && body.Res != nil {
		p.keep(ctx, body.Res.Returnval)
	}
	return answer
}

func (p *phony) ExportVm(ctx *simulator.Context, req *types.ExportVm) soap.HasFault {
	vm := ctx.Map.Get(req.This).(*simulator.VirtualMachine)
	if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		return &methods.ExportVmBody{Fault_: simulator.Fault("", &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: vm.Runtime.PowerState,
		})}
	}
	moment := new(simulator.VirtualMachineSnapshot)
	moment.Vm, moment.Config = vm.Self, *vm.Config
	body := p.export(ctx, moment, &types.ExportSnapshot{This: req.This}).(*methods.ExportSnapshotBody)
	if body.Fault_ != nil {
		return &methods.ExportVmBody{Fault_: body.Fault_}
	}
	return &methods.ExportVmBody{Res: &types.ExportVmResponse{Returnval: body.Res.Returnval}}
}

func (p *phony) ImportVApp(ctx *simulator.Context, req *types.ImportVApp) (answer soap.HasFault) {
	pool := ctx.Map.Get(req.This).(*simulator.ResourcePool)
	ctx.WithLock(pool, func() { answer = pool.ImportVApp(ctx, req) })
	if body, ok := answer.(*methods.ImportVAppBody); ok && body.Res != nil {
		p.keep(ctx, body.Res.Returnval)
	}
	return answer
}

func (p *phony) keep(ctx *simulator.Context, ref types.ManagedObjectReference) {
	object, ok := ctx.Session.Get(ref).(*simulator.HttpNfcLease)
	if !ok {
		return
	}
	kept := *ctx
	p.m.Lock()
	p.leases[ref.Value] = lease{&kept, object}
	timeout := p.timeout
	p.m.Unlock()
	ctx.WithLock(object, func() {
		if object.Info != nil {
			object.Info.LeaseTimeout = timeout
		}
	})
}
